"""Streams chat completions with the `openai` SDK: chat_client.py <base URL> <cookie|header>.

Asks three times with one client, and prints `begin`, one line for each chunk as it arrives, and `end`.
"""

import sys

import openai


def main(url: str, affinity: str) -> None:
    headers = {"X-Chat": "one"} if affinity == "header" else {}
    client = openai.OpenAI(base_url=url, api_key="none", default_headers=headers, max_retries=0, timeout=30)
    for _ in range(3):
        stream = client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        print("begin", flush=True)
        for chunk in stream:
            print(f"chunk {chunk.choices[0].delta.content}", flush=True)
        print("end", flush=True)


main(*sys.argv[1:])
