"""What is kept from the user is kept for one thread and a while; the process is as before."""

import logging
import threading
import warnings

from perforated_monai.inference.quiet import without_messages, without_warnings


def test_messages_of_the_calling_thread_are_dropped_and_no_others(caplog) -> None:
    logger = logging.getLogger("test_quiet")
    filters, disabled = list(logger.filters), logging.root.manager.disable
    with caplog.at_level(logging.INFO), without_messages(logger):
        logger.info("dropped")
        logger.warning("kept")
        logging.getLogger("another").info("kept too")
        other = threading.Thread(target=logger.info, args=("of another thread",))
        other.start()
        other.join()
    assert [r.getMessage() for r in caplog.records] == ["kept", "kept too", "of another thread"]
    assert (logger.filters, logging.root.manager.disable) == (filters, disabled)


def test_threads_put_back_the_filters_they_found() -> None:
    before, started, both = list(warnings.filters), threading.Event(), threading.Event()

    def first() -> None:
        with without_warnings():
            started.set()
            both.wait(0.2)  # the other would end later than this one, if it could begin

    def second() -> None:
        started.wait()
        with without_warnings():
            both.set()

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    with without_warnings(), without_warnings():
        warnings.warn("not shown", stacklevel=1)
    assert warnings.filters == before
