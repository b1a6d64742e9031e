"""One request, CRIU's notifications, and its final answer.

Whatever a handler does, CRIU gets a word to every notification and the last word is waited for:
CRIU takes our silence for a refusal only when our end of the socket closes.
"""

from typing import Any

from criu_rpc import wire
from criu_rpc.errors import BadReply, CriuDied
from criu_rpc.logger import Logger
from criu_rpc.notify import Handler, Notification
from criu_rpc.process import CriuProcess
from criu_rpc.proto import rpc

logger = Logger(__name__)

# a criu that has closed its end is on its way out
_DYING_S = 1.0


def spoken(action: str) -> str:
    """The name that people use for a request type."""
    return action.removeprefix("SINGLE_").lower().replace("_", "-")


class Conversation:
    """The exchange about one request of type *action*."""

    def __init__(self, process: CriuProcess, action: str, on_notify: Handler | None) -> None:
        self._process, self._action, self._on_notify = process, action, on_notify
        #: what the handler raised first; what comes after it is only acknowledged
        self.failure: BaseException | None = None
        self._refuse_next = False

    def hold(self, request: Any) -> Any:
        """Return CRIU's final answer. Raises CriuDied, BadReply; not what the handler raises."""
        try:
            self._send(request)
            while True:
                reply, fds = self._receive()
                with wire.lent(fds):
                    if reply.type != rpc().NOTIFY:
                        return self._checked(reply)
                    self._send(self._word_on(reply.notify, fds))
        except wire.PeerGone:
            status = self._process.wait(_DYING_S)
            raise CriuDied(spoken(self._action), status, self._process.stderr()) from None
        except wire.MessageTooLong as error:
            raise BadReply(spoken(self._action), str(error)) from None

    def _word_on(self, notify: Any, fds: tuple[int, ...]) -> Any:
        pid = notify.pid if notify.HasField("pid") else None
        logger.debug("criu %d: %s", self._process.pid, notify.script)
        agreed = self._agreed(Notification(notify.script, pid, fds))
        return rpc().criu_req(type=rpc().NOTIFY, notify_success=agreed)

    def _agreed(self, notification: Notification) -> bool:
        if self._refuse_next:
            self._refuse_next = False
            return False
        if self._on_notify is None or self.failure is not None:
            return True
        try:
            self._on_notify(notification)
        except BaseException as error:  # noqa: BLE001 - not even a Ctrl-C may cut CRIU off
            self.failure = error
            return False
        return True

    def _receive(self) -> tuple[Any, tuple[int, ...]]:
        try:
            message = wire.receive(self._process.sock, self._process.pidfd)
        except KeyboardInterrupt as error:
            if self.failure is not None:
                raise
            self.failure, self._refuse_next = error, True
            return self._receive()
        return self._parsed(message), message.fds

    def _parsed(self, message: wire.Message) -> Any:
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - lazy: 30 ms

        try:
            return rpc().criu_resp.FromString(message.data)
        except DecodeError as error:
            wire.close_fds(message.fds)
            raise BadReply(spoken(self._action), f"no message of rpc.proto: {error}") from error

    def _checked(self, reply: Any) -> Any:
        kinds = rpc().criu_req_type
        expected = {kinds.Value(self._action)}
        if not reply.success:
            expected.add(kinds.Value("EMPTY"))  # cr-service.c: send_criu_err
        if reply.type not in expected:
            raise BadReply(spoken(self._action), f"an answer to {kinds.Name(reply.type)}")
        return reply

    def _send(self, message: Any) -> None:
        wire.send(self._process.sock, message.SerializeToString())
