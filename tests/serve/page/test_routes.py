import re
from html.parser import HTMLParser
from importlib import resources
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serve.page.routes import page_routes

FOLDER = resources.files("serve.page")
FILES = ("index.html", "page.js", "page.css", "icon.svg", "docs.html", "docs.js")
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
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


@pytest.fixture(scope="module")
def api():
    api = FastAPI(docs_url=None, redoc_url=None)
    api.include_router(page_routes())
    return api


@pytest.fixture(scope="module")
def client(api):
    return TestClient(api, follow_redirects=False)


@pytest.fixture(scope="module")
def mounted(api):
    """The same application mounted below a path of another one."""
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
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"
    assert len(response.content) > 100


@pytest.mark.parametrize("path", ["/ui", "/docs/swagger-ui-bundle.js"])
def test_a_cached_file_is_304(client, path):
    tag = client.get(path).headers["etag"]
    for known in (tag, f'"old", {tag}', f"W/{tag}"):
        response = client.get(path, headers={"if-none-match": known})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == tag
    assert client.get(path, headers={"if-none-match": '"old"'}).status_code == 200


def test_files_support_head_requests(client):
    assert client.head("/ui").headers["etag"] == client.get("/ui").headers["etag"]


def test_the_root_redirects_to_the_page(client):
    response = client.get("/")
    assert response.status_code == 307
    assert response.next_request.url.path == "/ui"


@pytest.mark.parametrize("root", ["/models/fill/", "/models/fill"])
def test_the_root_redirects_to_the_page_under_any_mount_point(mounted, root):
    response = mounted.get(root)
    assert (response.status_code, response.url.path) == (200, "/models/fill/ui")


def test_a_form_posted_to_the_root_is_left_to_others():
    api = FastAPI()
    api.include_router(page_routes())
    api.add_api_route("/", lambda: "scored", methods=["POST"])
    with TestClient(api, follow_redirects=False) as client:
        assert client.post("/").json() == "scored"
        assert client.get("/").status_code == 307


def test_the_pages_are_not_in_the_openapi_document():
    api = FastAPI()
    api.include_router(page_routes())
    assert api.openapi()["paths"] == {}


@pytest.mark.parametrize("name", FILES)
def test_no_file_refers_to_another_origin(name):
    text = (FOLDER / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "the name of a namespace")
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text) == []
    assert not re.search(r"@import|url\(", text)


@pytest.mark.parametrize("name", ["page.js", "docs.js"])
def test_no_script_turns_text_into_markup_or_code(name):
    text = (FOLDER / name).read_text("utf-8")
    banned = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|localStorage|\.cookie"
    assert re.findall(banned, text) == []


class Tags(HTMLParser):
    """Tags of a page with their attributes, and the content of inline scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inline, self._in = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in in {"script", "style"}:
            self.inline += data.strip()

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(params=["index.html", "docs.html"])
def html(request):
    return Tags((FOLDER / request.param).read_text("utf-8"))


def test_a_page_has_a_language_a_title_and_a_width(html):
    assert html.all("html")[0]["lang"] == "en"
    assert html.all("title")
    assert any(attributes.get("name") == "viewport" for attributes in html.all("meta"))


def test_a_page_has_no_inline_scripts_or_styles(html):
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
    asked = re.findall(r"send\(\"([^\"]*)\"", (FOLDER / "page.js").read_text("utf-8"))
    assert sorted(asked) == ["info", "v1/fill-mask"]


def test_every_field_of_the_page_has_a_label():
    html = Tags((FOLDER / "index.html").read_text("utf-8"))
    labelled = {attributes["for"] for attributes in html.all("label")}
    fields = html.all("textarea", "select", "input")
    assert len(fields) == 5
    assert all(field["id"] in labelled or field.get("aria-label") for field in fields)


def test_every_element_that_the_script_uses_is_in_the_page():
    script = (FOLDER / "page.js").read_text("utf-8")
    table = re.search(r"\[([^][]*)\]\.map\(byId\)", script)
    wanted = set(re.findall(r'"([a-z]+)"', table[1])) | set(re.findall(r'byId\("(\w+)"\)', script))
    there = {attributes.get("id") for _, attributes in Tags((FOLDER / "index.html").read_text("utf-8")).tags}
    assert len(wanted) > 10
    assert wanted <= there
