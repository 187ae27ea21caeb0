x = 1


def document_text(results):
    return ""
