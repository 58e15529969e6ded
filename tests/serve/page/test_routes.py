import re
from html.parser import HTMLParser
from importlib import resources
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serve.page.routes import page_routes

FOLDER = resources.files("serve.page")
FILES = {name: (FOLDER / name).read_text("utf-8") for name in ("index.html", "page.js", "docs.html", "docs.js")}
STYLES = {name: (FOLDER / name).read_text("utf-8") for name in ("page.css", "icon.svg")}
TYPES = {
    "/ui": "text/html",
    "/ui/": "text/html",
    "/ui/page.js": "text/javascript",
    "/ui/page.css": "text/css",
    "/ui/icon.svg": "image/svg+xml",
    "/docs": "text/html",
    "/docs/": "text/html",
    "/docs/docs.js": "text/javascript",
    "/docs/swagger-ui-bundle.js": "text/javascript",
    "/docs/swagger-ui.css": "text/css",
}
POLICY = {
    **dict.fromkeys(("script-src", "style-src", "connect-src"), "'self'"),
    **dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'"),
    "img-src": "'self' data:",
}


@pytest.fixture(scope="module")
def api():
    api = FastAPI(docs_url=None, redoc_url=None)
    api.include_router(page_routes())
    api.add_api_route("/", lambda: "scored", methods=["POST"], include_in_schema=False)
    return api


@pytest.fixture(scope="module")
def client(api):
    return TestClient(api, follow_redirects=False)


@pytest.fixture(scope="module")
def mounted(api):
    """Client of the same application below a path of another one."""
    outside = FastAPI(docs_url=None, redoc_url=None)
    outside.mount("/models/fill", api)
    return TestClient(outside)


@pytest.mark.parametrize("path", TYPES)
def test_a_file_has_its_type_and_security_headers(client, path):
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == TYPES[path]
    directives = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert directives == POLICY
    others = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-cache"}
    assert others.items() <= response.headers.items()
    assert len(response.content) > 100
    assert client.head(path).headers["etag"] == response.headers["etag"]


@pytest.mark.parametrize("path", ["/ui", "/docs/swagger-ui-bundle.js"])
def test_a_cached_file_is_304(client, path):
    tag = client.get(path).headers["etag"]
    for known in (tag, f'"old", {tag}', f"W/{tag}"):
        response = client.get(path, headers={"if-none-match": known})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == tag
    assert client.get(path, headers={"if-none-match": '"old"'}).status_code == 200


def test_reading_the_root_redirects_to_the_page_and_posts_are_left_to_others(client, mounted):
    response = client.get("/")
    assert (response.status_code, response.next_request.url.path) == (307, "/ui")
    assert client.post("/").json() == "scored"
    for root in ("/models/fill/", "/models/fill"):
        response = mounted.get(root)
        assert (response.status_code, response.url.path) == (200, "/models/fill/ui")


def test_the_pages_are_not_in_the_openapi_document(api):
    assert api.openapi()["paths"] == {}


@pytest.mark.parametrize("name", [*FILES, *STYLES])
def test_no_file_refers_to_another_origin(name):
    text = (FILES | STYLES)[name].replace("http://www.w3.org/2000/svg", "the name of a namespace")
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+|@import|url\(", text) == []


@pytest.mark.parametrize("name", ["page.js", "docs.js"])
def test_no_script_turns_text_into_markup_or_code(name):
    banned = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|localStorage|\.cookie"
    assert re.findall(banned, FILES[name]) == []


class Tags(HTMLParser):
    """Tags of a page with their attributes, and the content of inline scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inline, self._tag = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._tag = tag

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag in {"script", "style"}:
            self.inline += data.strip()

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.mark.parametrize("name", ["index.html", "docs.html"])
def test_a_page_has_a_language_a_title_a_width_and_nothing_inline(name):
    html = Tags(FILES[name])
    assert html.all("html")[0]["lang"] == "en"
    assert html.all("title")
    assert any(attributes.get("name") == "viewport" for attributes in html.all("meta"))
    assert html.inline == ""
    assert all("src" in attributes for attributes in html.all("script"))
    assert html.all("style") == []
    assert [name for _, attributes in html.tags for name in attributes if name == "style" or name[:2] == "on"] == []


@pytest.mark.parametrize("path", ["ui", "ui/", "docs", "docs/"])
def test_the_links_in_a_page_are_relative_and_exist(path, mounted):
    path = f"/models/fill/{path}"
    tags = Tags(mounted.get(path, follow_redirects=False).text).all("link", "script", "a")
    addresses = {attributes.get("href") or attributes["src"] for attributes in tags}
    assert len(addresses) > 3
    for address in addresses:
        assert not address.startswith("/")
        assert mounted.get(urljoin(path, address), follow_redirects=False).status_code == 200, address


def test_the_urls_in_the_script_are_relative():
    assert sorted(re.findall(r"send\(\"([^\"]*)\"", FILES["page.js"])) == ["info", "v1/fill-mask"]


def test_every_field_has_a_label_and_every_element_that_the_script_uses_exists():
    html = Tags(FILES["index.html"])
    labels = {attributes["for"] for attributes in html.all("label")}
    fields = html.all("textarea", "select", "input")
    assert len(fields) == 5
    assert all(field["id"] in labels or field.get("aria-label") for field in fields)
    table = re.search(r"\[([^][]*)\]\.map\(byId\)", FILES["page.js"])
    used = {*re.findall(r'"([a-z]+)"', table[1]), *re.findall(r'byId\("(\w+)"\)', FILES["page.js"])}
    assert len(used) > 10
    assert used <= {attributes.get("id") for _, attributes in html.tags}
