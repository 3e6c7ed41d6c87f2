"""Faults for `hub_server.HubServer.misbehave`: functions of the handler and its response."""

import contextlib
import socket
import struct


def status(code, error=None, **headers):
    """Answer with an error status, and the Hub's error code."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if error is not None:
        headers |= {"X-Error-Code": error, "X-Error-Message": error}
    return lambda handler, response: response.replaced(status=code, body=b"", headers=headers)


def truncated(handler, response):
    """Send half of the body, with the length of the whole."""
    return response.replaced(
        body=response.body[: len(response.body) // 2],
        headers={**response.headers, "Content-Length": str(len(response.body))},
    )


def truncated_with_matching_length(handler, response):
    """Send half of the body, with its own length."""
    return response.replaced(body=response.body[: len(response.body) // 2])


def flipped(handler, response):
    """Change one bit in the middle of the body."""
    middle = len(response.body) // 2
    changed = bytes([response.body[middle] ^ 1]) if response.body else b""
    return response.replaced(body=response.body[:middle] + changed + response.body[middle + 1 :])


def closed(handler, response):
    """Close the connection without an answer."""


def reset(handler, response):
    """Reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def reset_in_the_body(handler, response):
    """Reset the connection after half of the body."""
    handler.send(truncated(handler, response))
    handler.wfile.flush()
    reset(handler, response)


def stalled(handler, response):
    """Accept the request and answer nothing for as long as the server runs."""
    handler.hub.stopped.wait()


def stalled_in_the_body(handler, response):
    """Send half of the body, and nothing more for as long as the server runs."""
    handler.send(truncated(handler, response))
    handler.wfile.flush()
    handler.hub.stopped.wait()


def no_http(handler, response):
    """Answer with bytes that are not HTTP."""
    handler.wfile.write(bytes(range(256)))


def login_page(handler, response):
    """Answer with a web page, as the portals of public networks do."""
    return response.replaced(body=b"<html>Please log in</html>", headers={"Content-Type": "text/html"})


def garbage(handler, response):
    """Send another body of the same length."""
    return response.replaced(body=bytes(range(256)) * (len(response.body) // 256) + bytes(len(response.body) % 256))


def redirect_loop(handler, response):
    """Redirect to the same address."""
    return response.replaced(status=302, body=b"", headers={**response.headers, "Location": handler.path})


def slow_drip(handler, response):
    """Send the body in 20 small pieces."""
    body, step = response.body, len(response.body) // 20 + 1
    handler.send(response.replaced(body=body[:step], headers={**response.headers, "Content-Length": str(len(body))}))
    with contextlib.suppress(ConnectionError):
        for first in range(step, len(body), step):
            handler.hub.stopped.wait(0.005)
            handler.wfile.write(body[first : first + step])
