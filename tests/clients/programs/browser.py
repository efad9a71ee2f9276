"""browser.py CHROMIUM PAGE LARGE_PAGE OTHER_REVIEW OUT: use the page as a person does; print JSON.

Screenshots and the saved review go to OUT.
"""

import json
import re
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM, PAGE, LARGE, OTHER = sys.argv[1:5]
OUT = Path(sys.argv[5])

BOXES = "all => all.map(e => e.getBoundingClientRect()).map(r => [r.x, r.y, r.width, r.height])"


def names(page):
    return page.eval_on_selector_all("#table tbody th button", "all => all.map(b => b.textContent)")


def sort(page, title):
    head = page.locator("#table thead th", has_text=title)
    head.get_by_role("button").click()
    return [head.get_attribute("aria-sort"), names(page)]


def shown(page):
    pictures = page.locator("#planes image").count()
    return [page.text_content("#name"), page.text_content("#place"), pictures]


def loaded(page, file):
    page.set_input_files("#load", file)
    page.locator("#said", has_text=re.compile(".")).wait_for()  # the policy forbids evaluated text
    return page.text_content("#said")


def use(browser, found):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page.on("request", lambda request: found["requests"].append(request.url.split(":")[0]))
    page.on("console", lambda message: found["errors"].append(message.text))
    page.on("pageerror", lambda error: found["errors"].append(str(error)))
    page.on("dialog", lambda dialog: (found["errors"].append(dialog.message), dialog.dismiss()))
    page.goto(f"file://{PAGE}")
    found["first"] = names(page)
    found["volume"] = [sort(page, "anterior hippocampus"), sort(page, "anterior hippocampus")]
    found["confidence"], found["time"] = sort(page, "confidence"), sort(page, "time")
    sort(page, "case")
    page.keyboard.press("Escape")
    page.locator("#table tbody th button").first.click()
    steps = ["ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft"]
    found["keys"] = [shown(page)]
    for key in steps:
        page.keyboard.press(key)
        found["keys"].append(shown(page))
    page.keyboard.press("o")
    found["planes"] = page.eval_on_selector_all("#planes image", BOXES)
    found["picture"] = page.eval_on_selector_all("#planes", BOXES)[0]
    found["sideways"] = page.eval_on_selector(".list", "l => l.scrollWidth - l.clientWidth")
    found["bare"] = page.locator("#planes .edge").first.is_hidden()
    page.keyboard.press("o")
    page.screenshot(path=OUT / "desktop.png", full_page=True)
    page.click("#save")
    found["nothing"] = page.text_content("#said")
    page.keyboard.press("f")
    page.keyboard.press("c")
    page.keyboard.type('=a "comma", here')
    page.keyboard.press("Enter")
    page.keyboard.type("and f on a second line")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    found["reviewed"] = page.text_content("#reviewed")
    with page.expect_download() as download:
        page.click("#save")
    found["file"] = download.value.suggested_filename
    download.value.save_as(OUT / "review.csv")
    page.select_option("#filter", "flagged")
    found["flagged"] = names(page)
    page.close()

    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"file://{PAGE}")
    found["other"] = loaded(page, OTHER)
    found["untouched"] = page.text_content("#reviewed")
    page.evaluate("document.getElementById('said').textContent = ''")
    found["again"] = [loaded(page, OUT / "review.csv"), page.text_content("#reviewed")]
    page.select_option("#filter", "flagged")
    page.locator("#table tbody th button").first.click()
    found["comment"] = page.input_value("#comment")
    page.select_option("#filter", "outlier")
    found["outliers"] = names(page)
    found["width"] = page.evaluate("document.documentElement.scrollWidth")
    page.evaluate("document.documentElement.style.filter = 'grayscale(1)'")
    page.screenshot(path=OUT / "phone.png", full_page=True)
    page.close()

    page = browser.new_page(color_scheme="dark")
    page.goto(f"file://{PAGE}")
    paper = "getComputedStyle(document.body).backgroundColor"
    found["paper"] = [page.evaluate(paper)]
    page.emulate_media(media="print")
    found["paper"].append(page.evaluate(paper))
    page.close()


def seconds_to_open(browser):
    """Until the first case is drawn, and until all is loaded: CPU seconds, and by the clock.

    The median of three. CPU seconds do not depend on what else the machine does.
    """
    measured = []
    for _ in range(3):
        page = browser.new_page()
        metrics = page.context.new_cdp_session(page)
        metrics.send("Performance.enable")
        before, start = cpu_seconds(metrics), time.monotonic()
        page.goto(f"file://{LARGE}", wait_until="commit")
        page.wait_for_selector("#planes svg")
        first = [cpu_seconds(metrics) - before, time.monotonic() - start]
        page.wait_for_load_state("load")
        measured.append([*first, cpu_seconds(metrics) - before, time.monotonic() - start])
        assert len(names(page)) == 1000
        page.close()
    return [sorted(values)[1] for values in zip(*measured, strict=True)]


def cpu_seconds(metrics):
    found = metrics.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in found if m["name"] == "ProcessTime")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    found = {"requests": [], "errors": []}
    use(browser, found)
    found["seconds"] = seconds_to_open(browser)
    found["browser"] = browser.version
    browser.close()
print(json.dumps(found))
