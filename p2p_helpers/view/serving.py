"""What Voilà needs to serve the studio safely: notebooks/voila.json names these classes, and Voilà imports them.

Voilà reads that file from the folder in which it starts: `cd notebooks && voila studio.ipynb`. The rest of what it says:
the Host header must name this machine (`allow_remote_access`); a picture of 25 MB gets through a websocket, and one that is
too large as far as the studio's message; a page fetches nothing from elsewhere (Voilà's own asks a CDN for icons); a kernel
that no page ever connected to ends after half a minute; the notebook's introduction is not shown.

To serve a class from another machine, set `allow_remote_access` to true in that file and start
`voila studio.ipynb --ip=0.0.0.0 --token=…`.
"""

from __future__ import annotations

from jupyter_server.auth import User
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.ioloop import IOLoop
from voila.voila_identity_provider import VoilaIdentityProvider

AWAY = 30  # seconds without a page after which a kernel ends
REFUSED = """<!doctype html><title>The studio</title><p>A page of another site asked for the studio.
<a href="">Open the studio</a> if you want it."""


class OwnPages(VoilaIdentityProvider):
    """Serves another site's page a link, no more: each visit starts a kernel, and a kernel takes half a gigabyte.

    Browsers say so in `Sec-Fetch-Site`, to servers on this machine and to those with https.
    """

    def get_user(self, handler):
        """The user of a request; 403 and a link where a browser says that another site made it."""
        if handler.request.headers.get("Sec-Fetch-Site") == "cross-site":
            handler.set_status(403)
            handler.finish(REFUSED)
            return User("refused")
        return super().get_user(handler)


class EndsWithItsPage(ZMQChannelsWebsocketConnection):
    """A page's connection to its kernel, which ends soon after the page, in the middle of a run too."""

    def disconnect(self):
        """The page was closed or reloaded, its browser was killed, or its network broke down."""
        super().disconnect()
        kernels, kernel = self.multi_kernel_manager, self.kernel_id

        async def end():
            if kernel in kernels and not kernels.kernel_model(kernel)["connections"]:
                await kernels.shutdown_kernel(kernel, now=True)

        IOLoop.current().call_later(AWAY, end)
