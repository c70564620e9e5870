"""Chromium without a screen, to look at pages as a person does."""

import shutil
import time
from contextlib import contextmanager

PROGRAMS = ("chromium", "chromedriver")  # Debian's packages chromium and chromium-driver
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,1000")
SECONDS = 60  # more than any page takes on a busy machine


def why_not() -> str | None:
    """Why there is no browser here; None when there is."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"there is no {missing[0]}" if missing else None


@contextmanager
def open_browser():
    """A Browser that is closed in the end."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in OPTIONS:
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    def __init__(self, driver):
        self.driver = driver

    def open(self, address: str) -> None:
        self.driver.get("about:blank")  # a page whose address differs behind the # alone would not be loaded anew
        self.driver.get(address)

    def text(self) -> str:
        return self.driver.find_element("tag name", "body").text

    def wait_for(self, *words: str) -> str:
        """The page's text once it has all of these."""
        deadline = time.monotonic() + SECONDS
        while missing := [word for word in words if word not in self.text()]:
            assert time.monotonic() < deadline, f"{missing} not on the page, which reads\n{self.text()}"
            time.sleep(0.2)
        return self.text()

    def find(self, selector: str) -> list:
        """Elements, once there are any."""
        deadline = time.monotonic() + SECONDS
        while not (found := self.driver.find_elements("css selector", selector)):
            assert time.monotonic() < deadline, f"no {selector} on the page, which reads\n{self.text()}"
            time.sleep(0.2)
        return found

    def save(self, file) -> None:
        """A picture of the window."""
        self.driver.save_screenshot(str(file))
