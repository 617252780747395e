"""Threads are used again while they are warm, and end when nobody needs them."""

import asyncio
import threading
import weakref

from obzen_runtime.kernel import SystemThreads, tasks


async def test_a_thread_that_is_done_is_used_again_under_the_new_name():
    threads = SystemThreads()
    first = await threads.run("one", threading.current_thread)
    assert (await threads.run("one", threading.get_ident)) == first.ident
    second = await threads.run("two", lambda: (threading.get_ident(), threading.current_thread().name))
    assert second == (first.ident, "two")
    assert first.daemon


async def test_work_at_the_same_time_gets_threads_of_its_own():
    threads, gate = SystemThreads(), threading.Barrier(3, timeout=10)
    idents = await asyncio.gather(*[threads.run("x", lambda: (gate.wait(), threading.get_ident())[1]) for _ in range(3)])
    assert len(set(idents)) == 3


async def test_a_thread_without_work_ends(monkeypatch):
    monkeypatch.setattr(tasks, "_IDLE", 0.001)
    threads = SystemThreads()
    thread = await threads.run("x", threading.current_thread)
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert threads._idle == []
    assert await threads.run("x", lambda: 5) == 5


async def test_work_that_comes_as_a_thread_gives_up_is_done(monkeypatch):
    monkeypatch.setattr(tasks, "_IDLE", 0.001)

    class Taken(list):
        """A list from which the inbox has just been taken by somebody who will put work into it."""

        removed = 0

        def remove(self, inbox):
            self.removed += 1
            if self.removed == 1:
                self.clear()
                inbox.put(("late", lambda: done.set))
                raise ValueError
            super().remove(inbox)

    threads, done = SystemThreads(), threading.Event()
    threads._idle = Taken()
    await threads.run("x", lambda: None)
    assert await asyncio.to_thread(done.wait, 10)


async def test_an_idle_thread_keeps_nothing_of_its_last_work():
    class Thing:
        pass

    threads, thing = SystemThreads(), Thing()
    gone = weakref.ref(thing)
    await threads.run("x", lambda thing=thing: None)
    del thing
    await threads.run("x", lambda: None)
    assert gone() is None


async def test_a_failure_does_not_end_the_thread():
    threads = SystemThreads()
    ident = await threads.run("x", threading.get_ident)
    future = threads.run("x", lambda: 1 / 0)
    await asyncio.wait([future])
    assert isinstance(future.exception(), ZeroDivisionError)
    assert await threads.run("x", threading.get_ident) == ident
