"""The output directory and its provenance.

    directory    written whole or not at all
    files        names of the files, JSON written and read
    model        the PyTorch part, saved and loaded
    validation   the schema of validation.json
    validation_parts  its sections
    outcomes     outcomes.json: the result of every example
    summary      the result table of terminal, report and card
    sentence_files  modules.json and the other files of a sentence encoder
    sparse       what an artifact of --unstructured says of itself
    manifest     SHA-256 of every file, versions, configuration
    verify       whether every file is as it was written
    sign         signatures
    tokenizer_files  the tokenizer, under names that other releases know
    package      the files again, laid out for another program
    consumers    the programs: their layouts, what they cannot serve, how they load a package
    triton       config.pbtxt
    cuda_loader  lines that run the file as a CUDA graph
    sbom         bill of materials, CycloneDX

May import export, pruning, tasks, models, core.
"""
