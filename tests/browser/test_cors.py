"""A page of another origin that calls the routes, as OpenAI's SDK does in a browser."""

import pytest

from tests.browser.conftest import FRIEND

SDK_HEADERS = {"authorization": "Bearer unused", "content-type": "application/json"}
STAINLESS = ("arch", "lang", "os", "package-version", "retry-count", "runtime", "timeout")
SDK_HEADERS |= {f"x-stainless-{name}": "1" for name in STAINLESS}
FETCH = """async ([url, headers, body]) => {
    const reply = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
    const shown = ["x-turn-id", "x-should-retry"].map(name => reply.headers.get(name));
    return [reply.status, ...shown, await reply.text()];
}"""


async def test_a_named_origin_may_call_with_the_sdks_headers_and_no_other(new_page, app, problems):
    page = await new_page(permissions=["local-network-access"])  # which Chromium asks its user for
    other = FRIEND.replace("localhost", "127.0.0.1")
    html = "<!doctype html><link rel=icon href=data:,><title>Another site</title>"
    for site in (FRIEND, other):
        await page.route(f"{site}/", lambda route: route.fulfill(body=html, content_type="text/html"))

    async def call(**more):
        body = {"model": "predict", "messages": [{"role": "user", "content": "What is 2 + 2?"}]} | more
        return await page.evaluate(FETCH, [f"{app.url}/v1/chat/completions", SDK_HEADERS, body])

    await page.goto(FRIEND)
    status, turn_id, _, text = await call()
    assert (status, bool(turn_id), "4" in text) == (200, True, True)
    status, turn_id, _, text = await call(stream=True)
    assert (status, bool(turn_id), text.endswith("data: [DONE]\n\n")) == (200, True, True)
    problems.allowed.append("status of 404")
    assert (await call(model="no-such"))[:3] == [404, None, "false"]

    problems.allowed.append("CORS policy|ERR_FAILED|status of 403")
    await page.goto(other)
    with pytest.raises(Exception, match="Failed to fetch"):
        await call()
    preflight = {"access-control-request-method": "POST", "access-control-request-private-network": "true"}
    preflight |= {"origin": FRIEND, "access-control-request-headers": ",".join(sorted(SDK_HEADERS))}
    reply = await page.request.fetch(f"{app.url}/v1/chat/completions", method="OPTIONS", headers=preflight)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, FRIEND)
