"""What a visitor of the page does and sees."""

ROWS, WORDS = "#results ol button", "#results ol .word"
ONE, TWO = "Paris is the [MASK] of France.", "The [MASK] of the [MASK]"


def opened(page, site, path="/ui"):
    """Opens the page of a stand-in, or of an address."""
    page.open(f"{getattr(site, 'address', site)}{path}")
    page.until("document.querySelector('#count').options.length > 0")


def write(page, sentence):
    """Writes in the place of what stands there."""
    page.run("document.querySelector('#text').select()")
    page.type(sentence)


def ask(page, site, sentence, path="/ui"):
    """Opens the page and asks, until there is an answer or a problem."""
    opened(page, site, path)
    write(page, sentence)
    page.press("Enter")
    page.until("document.querySelector('#results').ariaBusy === 'false'")


def rows(page, count):
    """Waits for a number of candidates."""
    page.until(f"document.querySelectorAll('{ROWS}').length === {count}")


def sentence_of(page):
    return page.run("document.querySelector('#text').value")


def focus_of(page):
    return page.run("document.activeElement.innerText || document.activeElement.id")
