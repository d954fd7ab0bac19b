"""The one table of usual column names, of all tasks; the most specific names come first.

Names are compared in lower case. The names of the GLUE files as published are among them: ``Quality`` and
``#1 String`` (MRPC), ``is_duplicate`` (QQP), ``gold_label`` (MNLI, SNLI).
"""

from __future__ import annotations

# Pairs win over single texts: QNLI has "question" and "sentence".
PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("#1 string", "#2 string"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("query", "document"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
    ("sentence_a", "sentence_b"),
)
TEXT_NAMES = (
    *("text", "sentence", "content", "review", "review_text", "review_body", "reviewtext", "comment", "comment_text"),
    *("tweet", "utterance", "document", "article", "body", "post", "question", "query", "message", "description"),
    *("headline", "title", "input", "sms", "email"),
)
LABEL_NAMES = (
    *("label", "labels", "gold_label", "is_duplicate", "quality", "target", "class", "category", "sentiment"),
    *("polarity", "intent", "emotion", "topic", "label_id", "y"),
)
# Labels that are numbers on a scale.
SCORE_NAMES = (
    *("score", "similarity_score", "similarity", "relatedness_score", "gold_score", "rating", "stars", "label"),
    *("labels", "target", "value", "y"),
)

# Words and tags, one list of each per row.
WORD_NAMES = ("tokens", "words", "word", "token", "text", "sentence")
TAG_NAMES = ("tags", "ner_tags", "labels", "ner", "tag", "label", "pos_tags", "pos", "chunk_tags")
# The first line of files with one word per line, where it names the columns.
ONE_WORD_NAMES = ("word", "token", "form", *(name for name in WORD_NAMES if name not in ("word", "token")))
ONE_TAG_NAMES = ("ner_tag", "entity", *TAG_NAMES, "pos_tag", "chunk", "upos", "xpos")

QUESTION_NAMES = ("question", "query")
CONTEXT_NAMES = ("context", "passage", "document", "paragraph", "article", "review", "text")
ANSWER_NAMES = ("answers", "answer", "answer_text", "human_ans_spans", "answer_span", "label", "labels")
PLACE_NAMES = ("answer_start", "answer_starts", "human_ans_indices", "answer_indices", "start")

# Whether a question has no answer, in SQuAD 2.
UNANSWERABLE_NAMES = ("is_impossible",)

IMAGE_NAMES = ("image", "img", "picture", "photo", "image_path", "image_file", "path", "file", "file_name", "filename")

# Rows with "-" in this column have no label: the annotators of SNLI and MNLI did not agree.
DISPUTED = ("gold_label", "-")
