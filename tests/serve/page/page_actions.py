"""Actions of a visitor of the page."""

ROWS, WORDS = "#results ol button", "#results ol .word"
ONE, TWO = "Paris is the [MASK] of France.", "The [MASK] of the [MASK]"


def opened(page, site, path="/ui"):
    """Open the page of a fake service or URL."""
    page.open(f"{getattr(site, 'address', site)}{path}")
    page.until("document.querySelector('#count').options.length > 0")


def write(page, sentence):
    """Replace the sentence."""
    page.run("document.querySelector('#text').select()")
    page.type(sentence)


def ask(page, site, sentence, path="/ui"):
    """Open the page, send a sentence, and wait for an answer or a problem."""
    opened(page, site, path)
    write(page, sentence)
    page.press("Enter")
    page.until("document.querySelector('#results').ariaBusy === 'false'")


def rows(page, count):
    """Wait for a number of candidates."""
    page.until(f"document.querySelectorAll('{ROWS}').length === {count}")


def sentence_of(page):
    return page.run("document.querySelector('#text').value")


def focus_of(page):
    return page.run("document.activeElement.innerText || document.activeElement.id")
