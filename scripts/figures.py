#!/usr/bin/env python3
"""Figures of moves: the real binary in front of scripted pods, one scene after the other.

    cargo build --release -p podpin && scripts/figures.py [--podpin target/release/podpin] [scene ...]

Each scene prints one line: what happened, and whether that is the goal. All pods read one log, in which event n comes at the n-th
half second, so that any of them can go on for any other. Only the loopback interface is used.
"""

import argparse
import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

TICK = 0.5
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def position():
    """Returns the number of the newest event."""
    return int(time.time() / TICK)


def chunk(text):
    data = text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


class Pod:
    """A pod whose answers a scene chooses: `status`, the pause before an answer, ids or none."""

    def __init__(self, name, status=200, pause=0.0, ids=True):
        self.name, self.status, self.pause, self.ids = name, status, pause, ids
        self.turn = 0.0
        self.writers, self.began, self.server = set(), [], None

    async def start(self, port=0):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port, backlog=128)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if self.pause:
                self.turn = max(self.turn, time.time()) + self.pause
                await asyncio.sleep(self.turn - time.time())
            if "/healthz" in head.split("\r\n")[0] or self.status != 200:
                status = 200 if "/healthz" in head else self.status
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
                return
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            writer.write(HEAD)
            self.began.append(time.time())
            self.writers.add(writer)
            await self.send_events(fields, "chatty" in head.split("\r\n")[0], writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def send_events(self, fields, chatty, writer):
        seen = int(fields.get("last-event-id", position()))
        while not writer.is_closing():
            for number in range(seen + 1, position() + 1) if chatty else ():
                line = f"id: {number}\n" if self.ids else ""
                writer.write(chunk(f"{line}data: {self.name}\n\n"))
            seen = max(seen, position())
            await writer.drain()
            await asyncio.sleep(TICK / 5)

    def end_streams(self):
        """Ends all streams cleanly and refuses new ones."""
        self.status = 503
        for writer in list(self.writers):
            writer.write(b"0\r\n\r\n")
            writer.close()

    def cut(self):
        """Dies, as far as clients can tell."""
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()


class Client:
    """An event stream client that notes what it got and when its stream ended."""

    async def open(self, port, chatty=True):
        self.events, self.retries, self.ended, self.cookie = [], [], None, None
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        query = "chatty" if chatty else "silent"
        request = f"GET /events?{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        self.writer.write(request.encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        assert " 200 " in head.split("\r\n")[0], head
        for line in head.split("\r\n"):
            if line.lower().startswith("set-cookie: "):
                self.cookie = line.split(": ", 1)[1].split(";")[0]
        self.task = asyncio.create_task(self.read())
        return self

    async def read(self):
        last = None
        try:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                data = (await self.reader.readexactly(size + 2))[:-2].decode()
                for line in data.split("\n"):
                    if line.startswith("id: "):
                        last = int(line[4:])
                    elif line.startswith("data: "):
                        self.events.append((last, line[6:], time.time()))
                    elif line.startswith("retry: "):
                        self.retries.append(int(line[7:]))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        self.ended = time.time()

    def lost(self):
        """Returns how many events are missing or came twice."""
        ids = [number for number, _, _ in self.events]
        return sum(after != before + 1 for before, after in zip(ids, ids[1:]))


class Site:
    """A proxy with an endpoints file."""

    def __init__(self, binary, service):
        self.directory = tempfile.TemporaryDirectory()
        self.file = os.path.join(self.directory.name, "endpoints.yaml")
        self.list([])
        self.port, self.admin = free_port(), free_port()
        config = os.path.join(self.directory.name, "podpin.yaml")
        with open(config, "w") as out:
            out.write(
                f"listeners: [{{name: http, address: \"127.0.0.1:{self.port}\"}}]\n"
                f"admin: {{address: \"127.0.0.1:{self.admin}\"}}\n"
                "affinityKeys: ephemeral\nroutes: [{service: chat}]\n"
                "shutdown: {announce: 0s, spread: 0s, timeout: 1s}\n"
                f"services:\n  chat:\n    discovery: {{file: {{path: {self.file}}}}}\n"
                + "".join(f"    {line}\n" for line in ["balance: {slowStart: off}", *service])
            )
        self.log = open(os.path.join(self.directory.name, "log"), "w+")
        self.process = subprocess.Popen([binary, "run", "--config", config], stdout=self.log, stderr=self.log)

    async def ready(self, *pods):
        self.list([(pod, "ready") for pod in pods])
        await until(lambda: self.metric("podpin_endpoints", 'state="ready"') == len(pods))

    def list(self, pods, generation="1"):
        lines = [
            f'- {{name: {pod.name}, address: "127.0.0.1:{pod.port}", state: {state}, '
            f'generation: "{getattr(pod, "generation", generation)}"}}\n'
            for pod, state in pods
        ]
        with open(self.file + ".new", "w") as out:
            out.write("".join(lines) or "[]\n")
        os.replace(self.file + ".new", self.file)

    def metric(self, name, part=""):
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5).read().decode()
        except OSError:
            return -1.0
        lines = [line for line in text.splitlines() if line.startswith(name) and part in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    async def clients(self, count, chatty=lambda number: True):
        return [await Client().open(self.port, chatty(number)) for number in range(count)]

    def close(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.directory.cleanup()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def until(condition, seconds=60):
    end = time.time() + seconds
    while not (await asyncio.to_thread(condition)):
        if time.time() > end:
            return False
        await asyncio.sleep(0.05)
    return True


def report(scene, good, **figures):
    shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
    print(f"{'ok  ' if good else 'MISS'} {scene}: {shown}", flush=True)
    return good


def cut(clients):
    return sum(client.ended is not None for client in clients)


def child(name):
    """Starts a pod in a process of its own, which can be stopped and killed."""
    pod = Pod(name)
    pod.port = free_port()
    pod.process = subprocess.Popen([sys.executable, __file__, "--pod", name, str(pod.port)])
    return pod


async def child_ready(pod):
    await until(lambda: socket.socket().connect_ex(("127.0.0.1", pod.port)) == 0)


async def refusing_successor(binary):
    site = Site(binary, ["drain: {handover: lastEventId, spread: 1s, timeout: 20s}"])
    a, b = await Pod("a").start(), await Pod("b", status=503).start()
    await site.ready(a)
    clients = await site.clients(60, lambda number: number % 2 == 0)
    site.list([(a, "draining"), (b, "ready")])
    await asyncio.sleep(5)
    b.status = 200
    moved = await until(lambda: site.metric("podpin_streams_active", 'endpoint="a"') == 0, 14)
    await asyncio.sleep(2)
    lost = sum(client.lost() for client in clients)
    site.close()
    return report("successor says 503 for 5 s of a 20 s drain", moved and cut(clients) + lost == 0,
                  streams=60, cut=cut(clients), lost=lost)


async def clean_end(binary):
    site = Site(binary, ["drain: {handover: lastEventId, spread: 1s, timeout: 20s}"])
    a, b = await Pod("a").start(), await Pod("b").start()
    await site.ready(a)
    clients = await site.clients(60, lambda number: number % 2 == 0)
    await site.ready(a, b)
    a.end_streams()
    await asyncio.sleep(0.2)
    site.list([(a, "draining"), (b, "ready")])
    moved = await until(lambda: site.metric("podpin_streams_active", 'endpoint="b"') == 60, 10)
    await asyncio.sleep(2)
    lost = sum(client.lost() for client in clients)
    site.close()
    return report("pod ends its streams 200 ms before its slice says so", moved and cut(clients) + lost == 0,
                  streams=60, cut=cut(clients), lost=lost)


async def stopped(binary):
    check = "health: {active: {type: http, path: /healthz, interval: 1s, timeout: 500ms, failures: 2, successes: 1}}"
    site = Site(binary, ["drain: {handover: lastEventId, handoverTimeout: 2s}", check])
    a, b = child("a"), await Pod("b").start()
    await child_ready(a)
    await site.ready(a)
    clients = await site.clients(24)
    await site.ready(a, b)
    await asyncio.sleep(2)
    began = time.time()
    a.process.send_signal(signal.SIGSTOP)
    failed = await until(lambda: site.metric("podpin_endpoint_ejections_total") > 0, 20)
    noticed = time.time() - began
    moved = await until(lambda: site.metric("podpin_streams_active", 'endpoint="b"') == 24, 20)
    took = time.time() - began
    await asyncio.sleep(2)
    lost = sum(client.lost() for client in clients)
    a.process.kill()
    site.close()
    good = failed and moved and took - noticed <= 3 and cut(clients) + lost == 0
    return report("pod stopped, with an active check", good, streams=24, check_failed_after=f"{noticed:.1f} s",
                  moved_after=f"{took:.1f} s", cut=cut(clients), lost=lost)


async def killed(binary):
    site = Site(binary, ["drain: {handover: lastEventId}"])
    a, heirs = child("a"), [await Pod(name, pause=0.005).start() for name in "bcd"]
    await child_ready(a)
    await site.ready(a)
    clients = await site.clients(1500, lambda number: number % 10 == 0)
    await site.ready(a, *heirs)
    await asyncio.sleep(1)
    began = time.time()
    a.process.kill()
    moved = await until(lambda: sum(len(heir.began) for heir in heirs) >= 1500, 30)
    times = sorted(at - began for heir in heirs for at in heir.began)
    await asyncio.sleep(2)
    ejected = site.metric("podpin_endpoint_ejections_total")
    lost = sum(client.lost() for client in clients)
    rest = cut(clients)
    site.close()
    p99 = times[int(len(times) * 0.99) - 1] if times else 99.0
    # The dead pod may be left out, its heirs may not.
    return report("1,500 streams of a killed pod, heirs that accept 1 in 5 ms",
                  moved and p99 <= 3 and ejected <= 1 and rest + lost == 0, moved=len(times), p50=f"{times[len(times) // 2]:.1f} s",
                  p99=f"{p99:.1f} s", ejections=int(ejected), cut=rest, lost=lost)


async def rolling(binary):
    site = Site(binary, ["drain: {handover: lastEventId, spread: 3s, timeout: 30s}"])
    old = [await Pod(f"old-{name}").start() for name in "abc"]
    new = [await Pod(f"new-{name}").start() for name in "abc"]
    for pod in new:
        pod.generation = "2"
    await site.ready(*old)
    clients = await site.clients(1000, lambda number: number % 10 == 0)
    listed = [(pod, "ready") for pod in old]
    for at, pod in enumerate(new):
        listed.append((pod, "ready"))
        site.list(listed)
        await asyncio.sleep(0.5)
        listed[0] = (old[at], "draining")
        site.list(listed)
        await until(lambda: site.metric("podpin_streams_active", f'endpoint="{old[at].name}"') == 0, 30)
        listed.pop(0)
        site.list(listed)
    await asyncio.sleep(2)
    at = [int(site.metric("podpin_streams_active", f'endpoint="{pod.name}"')) for pod in new]
    moves = sum(len(pod.began) for pod in new)
    lost = sum(client.lost() for client in clients)
    site.close()
    good = cut(clients) + lost == 0 and moves == 1000 and max(at) <= 1.15 * sum(at) / 3
    return report("rolling update of 3 pods, 1,000 streams, 90 % silent", good, cut=cut(clients), lost=lost,
                  moves_each=moves / 1000, at=at)


async def budget(binary):
    site = Site(binary, ["drain: {handover: lastEventId, spread: 1s, timeout: 30s, budget: {perSecond: 4}}"])
    a, b = await Pod("a", ids=False).start(), await Pod("b").start()
    await site.ready(a)
    clients = await site.clients(60)
    await until(lambda: all(client.events for client in clients), 10)
    site.list([(a, "draining"), (b, "ready")])
    done = await until(lambda: all(client.ended for client in clients), 40)
    ends = sorted(client.ended for client in clients if client.ended)
    most = max(sum(begin <= end < begin + 1 for end in ends) for begin in ends)
    exceeded = site.metric("podpin_disconnect_budget_exceeded_total")
    site.close()
    return report("drain.budget 4/s, streams that cannot be handed over", done and most <= 5 and exceeded == 0,
                  streams=60, most_in_a_second=most, over=f"{ends[-1] - ends[0]:.1f} s")


async def deaths(binary):
    site = Site(binary, ["sse: {retry: {drain: {min: 1s, max: 10s}}}"])
    pods = [await Pod(name).start() for name in "abc"]
    await site.ready(*pods)
    clients = await site.clients(200)
    for pod in pods:
        pod.cut()
    await until(lambda: all(client.ended for client in clients), 20)
    site.close()
    told = [client.retries[-1] for client in clients if client.retries]
    tenths = [sum((time - 1000) * 10 // 9001 == tenth for time in told) for tenth in range(10)]
    good = len(told) == 200 and max(tenths) <= 30
    return report("deaths without handover, 200 clients", good, told=len(told), in_tenths_of_the_range=tenths)


SCENES = [refusing_successor, clean_end, stopped, killed, rolling, budget, deaths]


async def serve_as_pod(name, port):
    await Pod(name).start(int(port))
    await asyncio.Event().wait()


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    if sys.argv[1:2] == ["--pod"]:
        return asyncio.run(serve_as_pod(*sys.argv[2:4]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--podpin", default="target/release/podpin")
    parser.add_argument("scene", nargs="*", choices=[[], *(scene.__name__ for scene in SCENES)])
    options = parser.parse_args()
    chosen = [scene for scene in SCENES if not options.scene or scene.__name__ in options.scene]
    results = [asyncio.run(scene(options.podpin)) for scene in chosen]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
