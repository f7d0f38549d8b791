"""The built pages in a real browser: every link, picture and width. ``MATROOT_SITE`` names a build to look at."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import browser
import pytest

DOCS = Path(__file__).parents[1] / "docs"
WIDTHS = (1400, 420)
#: What a page says of itself: its links, its ids, and the pictures that did not come.
FACTS = """(async () => {
    const pictures = [...document.images].filter(i => !i.src.startsWith("data:"));
    for (const picture of pictures) picture.loading = "eager";
    await Promise.allSettled(pictures.map(i => i.decode()));
    return {
        links: [...document.querySelectorAll("a[href]")].map(a => a.href),
        ids: [...document.querySelectorAll("[id]")].map(e => e.id),
        missing: pictures.filter(i => !i.naturalWidth).map(i => i.src),
    };
})()"""
#: By how many pixels the page, or the article (which the theme lets scroll), is too wide, and what sticks out.
OVERFLOW = """(() => {
    const boxes = [document.documentElement, ...document.querySelectorAll(".bd-article-container")];
    const over = Math.max(...boxes.map(e => e.scrollWidth - e.clientWidth));
    if (over <= 0) return "";
    const scrolls = e => e && (/auto|scroll/.test(getComputedStyle(e).overflowX) && !boxes.includes(e)
        || scrolls(e.parentElement));
    const limit = document.documentElement.clientWidth;
    const wide = [...document.querySelectorAll("article *")].filter(
        e => e.getBoundingClientRect().left + e.scrollWidth > limit && !scrolls(e.parentElement));
    return `${over} pixels: ${wide.slice(0, 3).map(e => `${e.tagName} ${e.textContent.slice(0, 40)}`).join(", ")}`;
})()"""
#: Lines of a drawing that stick out of their boxes.
CUT = """[...document.querySelectorAll("svg.flow text")].filter(t => {
    const a = t.getBoundingClientRect();
    return ![...document.querySelectorAll("svg.flow rect")].some(r => {
        const b = r.getBoundingClientRect();
        return b.left <= a.left && a.right <= b.right && b.top <= a.top && a.bottom <= b.bottom;
    });
}).map(t => t.textContent).join(", ")"""
#: False, after a while.
PATIENCE = "new Promise(done => setTimeout(() => done(false), 20000))"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages."""
    if browser.find() is None:
        pytest.skip(f"none of {', '.join(browser.NAMES)} is on this machine")
    if "MATROOT_SITE" in os.environ:
        return Path(os.environ["MATROOT_SITE"])
    pytest.importorskip("sphinx_gallery")
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "-q",
        "-d",
        str(folder / "doctrees"),
        str(DOCS),
        str(folder / "html"),
    ]
    subprocess.run(command, check=True, env={**os.environ, "MPLBACKEND": "Agg"})
    return folder / "html"


class Handler(SimpleHTTPRequestHandler):
    """Serves files as a host of static pages does: 404.html for an address that has none."""

    def log_message(self, *arguments):
        pass

    def send_error(self, code, *arguments):
        page = (Path(self.directory) / "404.html").read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(page)


@pytest.fixture(scope="module")
def address(site):
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def page(site, tmp_path_factory):
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def visit(page, url, address):
    """What a page links to and holds, and what is wrong with it."""
    page.open(url, WIDTHS[0])
    facts = page.evaluate(FACTS)
    faults = [f"no picture {missing}" for missing in facts["missing"]]
    for width in WIDTHS:
        page.resize(width)
        if over := page.evaluate(OVERFLOW):
            faults.append(f"at {width} pixels too wide by {over}")
    if cut := page.evaluate(CUT):
        faults.append(f"outside of its box: {cut}")
    faults += [line for line in page.complaints if "net::" not in line or address in line]
    return facts, faults


@pytest.mark.slow
def test_every_page_in_a_browser(site, address, page):
    todo, ids, links, faults = [f"{address}index.html"], {}, [], []
    while todo:
        url = todo.pop()
        facts, wrong = visit(page, url, address)
        ids[url] = {*facts["ids"]}
        faults += [f"{url}: {fault}" for fault in wrong]
        for link in facts["links"]:
            target, anchor = urldefrag(link)
            if link.startswith(address):
                links.append((url, target, unquote(anchor)))
                if target.endswith(".html") and target not in ids and target not in todo:
                    todo.append(target)
    for url, target, anchor in links:
        path = site / unquote(urlsplit(target).path).lstrip("/")
        if not (path.is_file() or (path / "index.html").is_file()):
            faults.append(f"{url}: no file for the link {target}")
        elif anchor and anchor not in ids.get(target, {anchor}):
            faults.append(f"{url}: no {anchor} in {target}")
    assert len(ids) > 60
    assert not faults, "\n".join(dict.fromkeys(faults))


@pytest.mark.slow
def test_an_address_without_a_page(address, page):
    facts, faults = visit(page, f"{address}no/such/page.html", address)
    assert f"{address}quickstart.html" in facts["links"]
    assert all("404" in fault and "no/such/page.html" in fault for fault in faults), faults
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontWeight") != ""
    assert page.evaluate("[...document.styleSheets].length") > 0


@pytest.mark.slow
def test_the_search_finds(address, page):
    page.open(f"{address}search.html?q=PseudoInverse", WIDTHS[0])
    wanted = "#search-results a[href*='matroot.PseudoInverse.html']"
    look = f"const look = () => document.querySelector({wanted!r}) ? done(true) : setTimeout(look, 50)"
    assert page.evaluate(f"Promise.race([new Promise(done => {{ {look}; look() }}), {PATIENCE}])")
