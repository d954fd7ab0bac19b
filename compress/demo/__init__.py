"""`compress demo`: a small real encoder, fine-tuned once, then an ordinary run.

    demo         the command
    fine_tune    a short fine-tuning

May import pipeline and below.
"""
