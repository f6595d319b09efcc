"""Streams chat completions with the `openai` SDK: chat_client.py <base URL> <cookie|header> <sync|async>.

Asks three times with one client, and prints `begin`, one line for each chunk as it arrives, and `end`.
"""

import asyncio
import sys

import openai

URL, AFFINITY, KIND = sys.argv[1:]
CLIENT = {
    "base_url": URL,
    "api_key": "none",
    "default_headers": {"X-Chat": "one"} if AFFINITY == "header" else {},
    "max_retries": 0,
    "timeout": 30,
}
QUESTION = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "stream": True}


def say(what):
    print(what, flush=True)


def ask():
    client = openai.OpenAI(**CLIENT)
    for _ in range(3):
        stream = client.chat.completions.create(**QUESTION)
        say("begin")
        for chunk in stream:
            say(f"chunk {chunk.choices[0].delta.content}")
        say("end")


async def ask_async():
    client = openai.AsyncOpenAI(**CLIENT)
    for _ in range(3):
        stream = await client.chat.completions.create(**QUESTION)
        say("begin")
        async for chunk in stream:
            say(f"chunk {chunk.choices[0].delta.content}")
        say("end")


ask() if KIND == "sync" else asyncio.run(ask_async())
