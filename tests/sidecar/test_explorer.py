"""The built explorer: its files, its index for its own paths, and how to build it where it is not."""

import pytest

HTML = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def built(tmp_path):
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html><title>explorer</title>")
    (static / "assets" / "app-1234.js").write_text("export {}")
    (tmp_path / "secret.txt").write_text("secret")


def test_without_a_build_the_first_page_says_how_to_build_it(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert "npm run build" in answer.text


def test_files_of_the_build_are_served(built, client):
    assert "explorer" in client.get("/").text
    script = client.get("/assets/app-1234.js")
    assert "javascript" in script.headers["content-type"]
    assert "immutable" in script.headers["cache-control"]


@pytest.mark.parametrize("path", ["/map", "/live/abc"])
def test_the_explorers_own_paths_get_its_index(built, client, path):
    page = client.get(path, headers=HTML)
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-cache")
    assert "explorer" in page.text


def test_other_paths_do_not(built, client):
    assert client.get("/map").status_code == 404
    assert client.get("/assets/missing.js", headers=HTML).status_code == 404
    assert client.post("/map", headers=HTML).status_code == 404


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt", "/..%5csecret.txt"]
)
def test_nothing_outside_the_build_is_served(built, client, path):
    assert "secret" not in client.get(path).text.replace("secret.txt", "")
    assert client.get(path).status_code == 404
