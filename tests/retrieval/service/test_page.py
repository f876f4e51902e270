"""The search page: its files under the service's rules, and one walk through it in headless Chromium."""

import os
import re
import shutil
import threading

import pytest

pytest.importorskip("clip_retrieval")

from page_fixtures import ADA, GRACE, STRANGER, page_world, photo_of  # noqa: F401
from retrieval_fixtures import tiny_models  # noqa: F401

from open_clip_idplugin.retrieval.service import login
from open_clip_idplugin.retrieval.service.access import Access

TOKEN = "a-token-of-some-length"
PATIENCE = 30_000  # milliseconds; a busy machine starts a browser's parts slowly
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def client(page_world):  # noqa: F811
    return page_world.app(page_world.gallery("files")).test_client()


class TestFiles:
    def test_nothing_is_inline_or_from_elsewhere(self, client):
        page = client.get("/").get_data(as_text=True)
        assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=|https?:", page)
        names = set(re.findall(r'"(page/[\w.]+)"', page))
        assert {"page/main.js", "page/page.css", "page/icon.svg"} <= names
        scripts = {"main.js"}
        while scripts:  # modules and what they import
            name = scripts.pop()
            names.add(f"page/{name}")
            text = client.get(f"/page/{name}").get_data(as_text=True)
            assert "http:" not in text and "https:" not in text and "innerHTML" not in text
            scripts |= {found for found in re.findall(r'from "\./([\w.]+)"', text) if f"page/{found}" not in names}
        for name in names:
            assert client.get(f"/{name}").status_code == 200, name

    def test_types_and_caching(self, client):
        for name, kind in [("", "text/html"), ("page/main.js", "text/javascript"), ("page/page.css", "text/css")]:
            answer = client.get(f"/{name}")
            assert answer.content_type.startswith(kind)
            assert client.get(f"/{name}", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
        assert client.get("/page/__init__.py").status_code == 404
        assert client.get("/page/../access.py").status_code == 404

    def test_stock_page(self, client):
        if client.get("/stock/").status_code == 404:
            pytest.skip("this clip-retrieval came without its page")
        assert "<clip-front>" in client.get("/stock/").get_data(as_text=True)
        assert client.get("/stock/config.json").get_json()["defaultBackend"].startswith("http://localhost")
        assert "script-src 'self';" in client.get("/stock/").headers["Content-Security-Policy"]

    def test_files_need_no_token_and_the_page_leads_to_the_login(self, page_world):  # noqa: F811
        locked = page_world.app(None, access=Access(TOKEN)).test_client()
        assert locked.get("/page/page.css").status_code == 200
        assert locked.get("/").headers["Location"] == "/login"
        assert locked.get("/service-info").status_code == 401


class TestLogin:
    def test_wrong_tokens_are_slowed_down(self, page_world, monkeypatch):  # noqa: F811
        now = 1000.0
        monkeypatch.setattr(login.time, "monotonic", lambda: now)
        client = page_world.app(None, access=Access(TOKEN)).test_client()

        def log_in(token, address="10.0.0.1"):
            return client.post("/login", data={"token": token}, environ_base={"REMOTE_ADDR": address}).status_code

        assert [log_in("wrong") for _ in range(login.TRIES)] == [401] * login.TRIES
        assert log_in(TOKEN) == log_in("wrong") == 429
        assert log_in(TOKEN, "10.0.0.2") == 303
        assert log_in("wrong", "2001:db8::1") == 401
        now += login.PAUSE_SECONDS - 1
        assert log_in(TOKEN) == 429
        now += 2
        assert log_in(TOKEN) == 303

    def test_one_network_of_ipv6_is_one_address(self):
        limit = login.LoginLimit()
        for number in range(login.TRIES):
            limit.note_wrong(f"2001:db8::{number:x}")
        assert limit.seconds_to_wait("2001:db8::ffff") > 0
        assert limit.seconds_to_wait("2001:db8:0:1::1") == 0

    def test_memory_is_bounded(self, monkeypatch):
        monkeypatch.setattr(login, "_MOST_ADDRESSES", 3)
        limit = login.LoginLimit()
        for number in range(9):
            limit.note_wrong(f"10.0.0.{number}")
        assert len(limit._wrong) == 3

    def test_log_out(self, page_world):  # noqa: F811
        client = page_world.app(None, access=Access(TOKEN)).test_client()
        client.post("/login", data={"token": TOKEN})
        assert client.get("/service-info").status_code == 200
        client.post("/logout")
        assert client.get("/service-info").status_code == 401


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `dev` has it)")
    path = os.environ.get("IDCLIP_TEST_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium was found: install one, or name it in IDCLIP_TEST_BROWSER")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, page_world):  # noqa: F811
    """A function: app -> the page, open in the browser, which must not complain; requests to elsewhere fail."""
    from werkzeug.serving import make_server

    closing = []

    def open_page(app, **options):
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        complaints = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.complaints = complaints
        closing.append(lambda: (context.close(), server.shutdown(), thread.join()))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        return page

    yield open_page
    for close in closing:
        close()


def file(name: str, *hues: float) -> dict:
    return {"name": name, "mimeType": "image/jpeg", "buffer": photo_of(*hues)}


def test_enroll_search_page_on_name_and_forget(open_page, page_world):  # noqa: F811
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    gallery = page_world.gallery("walk", Grace_Hopper=GRACE)
    app = page_world.app(gallery)
    page = open_page(app)
    page.wait_for_selector("#faces button")

    # Enroll from a photo of two: the one who is not known yet.
    page.set_input_files("#file", file("two.jpg", GRACE, ADA))
    second = page.locator("#photo .found > li").nth(1)
    assert "Grace Hopper" in page.locator("#photo .found > li").nth(0).inner_text()
    second.get_by_role("button", name="Name and enroll").click()
    page.keyboard.type("Ada Lovelace")  # the focus is in the form
    page.get_by_text("Consent and notes").click()
    page.get_by_label("Reference of the consent").fill("form 7")
    page.get_by_role("button", name="Enroll", exact=True).click()
    page.get_by_role("button", name="Search for Ada Lovelace").click()
    assert gallery.person("Ada Lovelace").details.consent == "form 7"

    # Search: her images come first, her face is framed; type the rest, then the next page.
    page.wait_for_selector("#cards > li")
    assert page.locator("#faces button[aria-pressed=true]").inner_text() == "Ada Lovelace"
    page.fill("#text", "coloured blocks")
    page.get_by_text("More options").click()
    page.get_by_label("Results a page").fill("8")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#cards > li")).to_have_count(8)
    assert "8 results, and there are more" in page.inner_text("#status")
    first = page.locator("#cards > li").first
    assert first.locator(".box").count() == 1 and "face 1.000" in first.inner_text()
    sides = first.locator(".box").bounding_box(), first.locator("img").bounding_box()
    assert abs(sides[0]["width"] / sides[1]["width"] - 8 / 48) < 0.03  # the face has 8 of 48 pixels
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#cards > li")).to_have_count(16)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Result 9:")

    # Nobody of both: what is left shows a stranger, who gets a name.
    page.get_by_label("What about Ada Lovelace?").select_option("none")
    page.locator("#faces button", has_text="Grace Hopper").click()
    page.get_by_label("What about Grace Hopper?").select_option("none")
    expect(page.locator("#cards > li")).to_have_count(8)
    (row,) = app.test_client().post("/metadata", json={"ids": [20]}).get_json()
    stranger = row["metadata"]["caption"]
    page.fill("#text", stranger)
    page.get_by_label("Results a page").fill("30")
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_selector(f"#cards .caption:text-is('{stranger}')")
    page.locator("#cards > li", has_text=stranger).first.locator(".open").click()
    page.locator("#viewer .found > li").first.get_by_role("button", name="Name this face").click()
    page.keyboard.type("The Stranger")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer .note:has-text('The Stranger is enrolled with 1 face')")
    assert page.get_by_role("button", name="Face 1: The Stranger").count() == 1
    page.keyboard.press("Escape")
    assert gallery.names() == ["Ada Lovelace", "Grace Hopper", "The Stranger"]

    # More like this, then forget.
    page.locator("#cards > li").first.get_by_role("button", name="More like this").click()
    page.wait_for_selector("#chosen li:has-text('like image')")
    page.get_by_role("button", name="People", exact=True).click()
    page.get_by_role("button", name="Forget Ada Lovelace").click()
    page.get_by_role("button", name="Forget for good").click()
    page.wait_for_selector("#people-status:has-text('Ada Lovelace was erased with 1 face')")
    page.keyboard.press("Escape")
    expect(page.locator("#search")).not_to_contain_text("Ada")
    assert gallery.names() == ["Grace Hopper", "The Stranger"]
    assert page.complaints == []


def test_log_in_on_a_phone_and_without_the_right_to_change(open_page, page_world):  # noqa: F811
    gallery = page_world.gallery("read only", Ada_Lovelace=ADA)
    access = Access(TOKEN, read_only_people=True)
    page = open_page(
        page_world.app(gallery, access=access), viewport={"width": 390, "height": 844}, color_scheme="dark"
    )
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.locator("#faces button").click()
    page.wait_for_selector("#cards > li")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#cards .open").first.click()
    page.wait_for_selector("#viewer .found > li")
    assert page.get_by_role("button", name="name").count() == 0
    page.keyboard.press("Escape")
    page.get_by_role("button", name="People", exact=True).click()
    page.wait_for_selector("#people-list li")
    assert page.get_by_role("button", name="Forget").count() == 0
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Token").wait_for()
    assert page.complaints == []


def test_errors_are_said(open_page, page_world):  # noqa: F811
    page = open_page(page_world.app(page_world.gallery("errors"), engine=False))
    page.wait_for_selector("#no-faces:not([hidden])")
    page.get_by_role("button", name="Search", exact=True).click()
    assert "Say whom or what you look for" in page.locator("#error").inner_text()
    page.fill("#text", "[TOK] on a hill")
    page.keyboard.press("Enter")
    page.wait_for_selector("#error:has-text('[TOK]')")
    page.set_input_files("#file", file("one.jpg", STRANGER))
    page.wait_for_selector("#photo-facts:has-text('without a face model')")


def test_a_plain_model_says_that_people_are_words(open_page, page_world, tiny_models):  # noqa: F811
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    gallery = page_world.gallery("words", Ada_Lovelace=ADA)
    page = open_page(page_world.app(gallery, loaded=tiny_models.load_plain()))
    page.get_by_role("button", name="Ada Lovelace").click()
    page.get_by_label("What is to be seen?").fill("feeding a horse")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#status")).to_contain_text("the faces decide who it is")
    expect(page.locator("#person-as-note")).to_contain_text("is a plain CLIP")
    first = page.locator("#cards > li").first
    first.get_by_text("Why").click()
    expect(first).to_contain_text("to 'a person feeding a horse'")
    page.get_by_text("More options").click()
    assert page.locator("#person-as option:disabled").count() == 2
    page.get_by_label("Index").select_option("bare")
    expect(page.locator("#error")).to_contain_text("idclip index_faces")
    expect(page.locator("#person-as-note")).to_contain_text("holds no faces")
    expected = re.compile("Failed to load resource.*400")  # the refusal, which the page showed
    assert all(expected.match(complaint) for complaint in page.complaints)


def test_who_is_probably_not_there_is_grey_and_can_be_hidden(open_page, page_world):  # noqa: F811
    """Ada is in ten of thirty pictures; five of the others show no face, of which nothing is known but the prior."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    page = open_page(page_world.app(page_world.gallery("grey", Ada_Lovelace=ADA, Nobody_Here=0.185)))
    page.locator("#faces button", has_text="Ada Lovelace").click()
    page.get_by_text("More options").click()
    page.get_by_label("Results a page").fill("40")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#cards > li")).to_have_count(30)
    assert page.locator("#cards > li.doubtful").count() == 20
    assert page.locator("#cards > li:not(.doubtful)", has_text="probably not in this picture").count() == 0
    assert "Grey ones (20) probably do not show who you asked for" in page.inner_text("#status")
    assert "in it > 99 %" in page.locator("#cards > li").first.inner_text()
    page.get_by_label("Least probability").fill("0.5")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#cards > li")).to_have_count(10)
    assert "Grey" not in page.inner_text("#status")

    # Somebody who is in none of the pictures.
    page.get_by_label("Least probability").fill("")
    page.locator("#faces button", has_text="Ada Lovelace").click()
    page.locator("#faces button", has_text="Nobody Here").click()
    expect(page.locator("#cards > li.doubtful")).to_have_count(30)
    expect(page.locator("#status")).to_contain_text("was probably not found")
    assert not page.complaints
