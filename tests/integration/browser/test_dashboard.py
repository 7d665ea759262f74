"""The page for people, as people use it: in headless Chromium, with a mouse and a keyboard."""

from __future__ import annotations

import uuid

import pytest

from kernelproto.launch.providers import IPykernelProvider
from tests.integration.browser.devtools import Page

pytestmark = pytest.mark.usefixtures("no_leaks")

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def enter(page: Page, url: str, user: str) -> None:
    """Open the page with a token, and wait until it keeps itself up to date."""
    page.open(f"{url}?token={user}")
    wait_for(page, "#connection", "Live")


def wait_for(page: Page, selector: str, text: str) -> None:
    """Wait until an element is there and has a text in it."""
    page.wait(f"document.querySelector({selector!r})?.textContent.includes({text!r})")


def look_again(page: Page) -> None:
    """Have the page fetch itself at once, as it does when the network is back."""
    page.evaluate("dispatchEvent(new Event('online'))")


def count_requests(page: Page) -> None:
    page.evaluate(
        "window.requests = 0; const send = fetch;"
        "window.fetch = (...options) => { requests += 1; return send(...options); }"
    )


def test_token_is_taken_out_of_the_address_and_kept_by_the_tab(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        enter(page, server.url, "ada")
        assert page.evaluate("location.href") == server.url
        requests = "performance.getEntriesByType('resource').map((request) => request.name)"
        assert len(page.evaluate(requests)) >= 3  # the script, the style, the page again
        assert not [url for url in page.evaluate(requests) if "ada" in url]
        assert page.evaluate("document.cookie") == ""
        page.reload()
        wait_for(page, "#connection", "Live")
        assert page.text(".user") == "ada"
        assert page.evaluate("location.href") == server.url
        with chromium.page() as other:
            other.open(server.url)
            assert "Sign in to see" in other.text()
            assert other.text("#news") == ""


def test_token_can_be_typed(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        page.open(f"{server.url}?token=stranger")
        wait_for(page, "#news", "This token is unknown")
        assert page.evaluate("location.href") == server.url
        page.type("stranger")
        page.press("Enter")
        wait_for(page, "#news", "This token is unknown")
        page.type("ada")
        page.press("Enter")
        wait_for(page, "#connection", "Live")
        assert page.text("h1") == "Your kernels"
        assert page.evaluate("document.activeElement.tagName") == "H1"
        assert page.evaluate("location.href") == server.url


def test_real_kernel_is_watched_interrupted_restarted_and_ended(chromium, serving) -> None:
    with serving(IPykernelProvider(), "pyimport/kernel") as server, chromium.page() as page:
        kernel = server.portal.call(server.pool.get, "ada")
        enter(page, server.url, "ada")

        async def work() -> str:
            result = await kernel.execute("while True: pass")
            return result.error.ename

        outcome = server.portal.start_task_soon(work)
        wait_for(page, ".state", "busy")
        wait_for(page, "[data-label=Memory]", "MB")
        page.wait("parseInt(document.querySelector('[data-label=CPU]').textContent) > 0")
        page.click("[data-action=interrupt]")
        assert outcome.result() == "KeyboardInterrupt"
        wait_for(page, "#news", "was interrupted")
        wait_for(page, ".state", "idle")

        before = kernel.manager.pid
        page.click("[data-action=restart]")
        page.wait("document.querySelector('dialog').open")
        page.click("dialog [value=yes]")
        wait_for(page, "#news", "was restarted")
        assert kernel.manager.pid != before

        # And the rest with the keyboard.
        page.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Shut down"
        page.press("Enter")
        page.wait("document.querySelector('dialog').open")
        page.press("Escape")
        page.wait("!document.querySelector('dialog').open")
        assert page.evaluate("document.activeElement.textContent") == "Shut down"
        page.press("Enter")
        page.wait("document.querySelector('dialog').open")
        assert page.evaluate("document.activeElement.textContent") == "Cancel"
        page.press("Tab")
        page.press("Enter")
        wait_for(page, "#news", "was shut down")
        wait_for(page, "#kernels", "You have no kernel")
        assert page.evaluate("document.activeElement.tagName") == "H1"
        assert server.pool.kernels() == []
        assert page.complaints() == []


def test_admin_sees_everybody_come_and_go(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        enter(page, server.url, "root")
        wait_for(page, "#kernels", "There are no kernels")
        for user in ("ada", "root", "bob"):
            server.start(user)
        wait_for(page, "#kernels", "bob")  # by itself, within two seconds
        cells = "[...document.querySelectorAll('[data-label=User]')]"
        users = f"{cells}.map((user) => user.textContent)"
        assert page.evaluate(users) == ["root", "ada", "bob"]
        assert len(page.names("button")) == 3 * 3
        server.portal.call(server.pool.release, "ada")
        server.start("eve")
        look_again(page)
        wait_for(page, "#kernels", "eve")
        assert page.evaluate(users) == ["root", "bob", "eve"]
        assert page.complaints() == []


def test_admin_acts_on_kernels_of_others(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        owner = "a&d=a/ä ö"
        kernel_id = server.start(owner)
        server.start("root")
        enter(page, server.url, "root")
        row = f"[data-kernel='{kernel_id}']"
        page.click(f"{row} [data-action=interrupt]")
        wait_for(page, "#news", f"Kernel {kernel_id[:8]} of {owner} was interrupted")
        page.click(f"{row} [data-action=shutdown]")
        page.wait("document.querySelector('dialog').open")
        assert page.text("#question") == f"Shut down kernel {kernel_id[:8]} of {owner}?"
        page.click("dialog [value=yes]")
        wait_for(page, "#news", f"Kernel {kernel_id[:8]} of {owner} was shut down")
        assert [kernel.user for kernel in server.pool.kernels()] == ["root"]
        assert page.complaints() == []


def test_focus_stays_while_the_page_changes(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        kernel_id = server.start("root")
        server.start("ada")
        enter(page, server.url, "root")
        for _ in range(2):
            page.press("Tab")
        page.evaluate("window.button = document.activeElement")
        name = f"Restart kernel {kernel_id[:8]}"
        assert page.evaluate("button.getAttribute('aria-label')") == name
        server.portal.call(server.pool.release, "ada")
        server.start("bob")
        look_again(page)
        wait_for(page, "#kernels", "bob")
        assert page.evaluate("document.activeElement === button")
        page.press("Enter")
        page.wait("document.querySelector('dialog').open")
        server.start("eve")
        look_again(page)
        wait_for(page, "#kernels", "eve")
        assert page.evaluate("document.querySelector('dialog').open")
        assert page.text("#question") == f"{name}?"
        page.press("Escape")
        page.wait("document.activeElement === button")


def shown(page: Page) -> list[str]:
    """Return the users of the rows that are shown, from top to bottom."""
    rows = "[...document.querySelectorAll('tbody tr')].filter((row) => row.checkVisibility())"
    return page.evaluate(f"{rows}.map((row) => row.querySelector('[data-label=User]').textContent)")


def choose(page: Page, selector: str, value: str) -> None:
    """Change a field as a user does."""
    page.evaluate(
        f"(() => {{ const field = document.querySelector({selector!r}); field.value = {value!r};"
        "field.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def test_many_rows_are_sorted_and_filtered(chromium, serving) -> None:
    users = ["u10", "u2", "ada", "bob", "eve", "u1"]
    with serving() as server, chromium.page() as page:
        server.start("u3")
        enter(page, server.url, "root")
        assert page.evaluate("document.querySelector('#tools').hidden")  # one needs no order
        for user in users:
            server.start(user)
        look_again(page)
        page.wait("!document.querySelector('#tools').hidden")
        assert shown(page) == ["u3", *users]
        choose(page, "#sort", "2")
        in_order = ["ada", "bob", "eve", "u1", "u2", "u3", "u10"]
        assert shown(page) == in_order
        page.evaluate("document.querySelector('#filter').focus()")
        page.type("IDLE u1")
        assert shown(page) == ["u1", "u10"]
        assert page.text("#matches") == "2 of 7 match"
        server.start("u11")
        look_again(page)
        page.wait("document.querySelector('#matches').textContent === '3 of 8 match'")
        assert shown(page) == ["u1", "u10", "u11"]
        assert page.evaluate("document.activeElement.id") == "filter"
        choose(page, "#filter", "")
        choose(page, "#sort", "")
        assert shown(page) == ["u3", *users, "u11"]
        assert page.text("#matches") == ""
        assert page.complaints() == []


def test_sorted_row_stays_below_the_focus(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        for user in ("b", "c", "d", "e", "f", "g"):
            server.start(user)
        enter(page, server.url, "root")
        choose(page, "#sort", "2")
        page.evaluate("document.querySelector('tbody button').focus()")
        server.start("a")
        look_again(page)
        wait_for(page, "#summary", "7 of 50")
        assert shown(page) == ["b", "c", "d", "e", "f", "g", "a"]
        page.evaluate("document.activeElement.blur()")
        look_again(page)
        page.wait("document.querySelector('tbody [data-label=User]').textContent === 'a'")


def test_hundreds_of_rows(chromium, serving) -> None:
    with serving(limit=300) as server, chromium.page() as page:
        server.start_many([f"u{number}" for number in range(300)])
        enter(page, server.url, "root")
        wait_for(page, "#summary", "300 of 300 kernels")
        choose(page, "#sort", "2")
        assert shown(page)[:3] == ["u0", "u1", "u2"]
        choose(page, "#filter", "u29")
        assert page.text("#matches") == "11 of 300 match"
        server.portal.call(server.pool.release, "u29")
        look_again(page)
        page.wait("document.querySelector('#matches').textContent === '10 of 299 match'")
        assert page.complaints() == []


def test_names_run_nothing(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        server.start(EVIL)
        enter(page, server.url, "root")
        assert EVIL in page.text("table")
        assert page.evaluate("document.querySelectorAll('img, main script').length") == 0
        server.start("ada")
        look_again(page)
        wait_for(page, "#kernels", "ada")
        assert page.evaluate("document.querySelectorAll('img, main script').length") == 0
        refused = page.evaluate(
            "new Promise((answer) => {"
            "  addEventListener('securitypolicyviolation', (event) => answer(event.blockedURI));"
            "  document.body.append(Object.assign(document.createElement('script'),"
            "    { textContent: 'window.hasRun = true' }));"
            "})"
        )
        assert refused == "inline"
        assert page.evaluate("window.hasRun === undefined")


def test_lost_connection_is_told_and_found_again(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        server.start("ada")
        enter(page, server.url, "ada")
        page.go_offline(True)
        wait_for(page, "#connection", "Connection lost")
        page.click("[data-action=interrupt]")
        wait_for(page, "#news", "failed")
        assert len(page.names("row")) == 2  # what is known stays
        page.go_offline(False)
        wait_for(page, "#connection", "Live")


def test_page_that_nobody_looks_at_asks_for_nothing(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        enter(page, server.url, "ada")
        count_requests(page)
        page.evaluate("Object.defineProperty(document, 'hidden', { value: true, writable: true })")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange')); requests = 0")
        look_again(page)
        assert page.evaluate("requests") == 0
        page.evaluate("document.hidden = false")
        back = "document.dispatchEvent(new Event('visibilitychange'))"
        assert page.evaluate(f"{back}; requests") == 1


def test_who_is_not_let_in_any_more_is_asked_again(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        server.start("ada")
        enter(page, server.url, "ada")
        server.users.banned.add("ada")
        look_again(page)
        wait_for(page, "#news", "no longer valid")
        assert "Sign in to see" in page.text()
        server.users.banned.remove("ada")
        page.reload()
        assert "Sign in to see" in page.text()  # it was forgotten


def test_error_is_told_in_the_words_of_the_server(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        server.start("ada")
        enter(page, server.url, "ada")
        row = "document.querySelector('[data-kernel]')"
        page.evaluate(f"{row}.dataset.kernel = '{uuid.UUID(int=0)}'")
        page.click("[data-action=interrupt]")
        wait_for(page, "#news", "failed: there is no kernel 0000")
        assert page.evaluate("document.querySelector('#news').className") == "bar error"


def test_fits_every_window(chromium, serving) -> None:
    headers = ["Kernel", "State", "User", "Connections", "Last activity", "Memory", "CPU"]
    with serving() as server, chromium.page() as page:
        for user in ("root", EVIL, "a" * 100):
            server.start(user)
        for user in ("root", "ada", "stranger"):
            page.open(f"{server.url}?token={user}")
            for width in (400, 800, 970, 1200):
                page.resize(width, 800)
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                if user == "root":  # it stays a table for those who hear it
                    assert len(page.names("row")) == 4
                    assert page.names("columnheader") == [*headers, "Actions"]


def test_is_dark_for_those_who_like_it(chromium, serving) -> None:
    with serving() as server, chromium.page() as page:
        paper = "getComputedStyle(document.body).backgroundColor"
        page.prefer("light")
        enter(page, server.url, "ada")
        light = page.evaluate(paper)
        page.prefer("dark")
        assert page.evaluate(paper) != light
