"""What bells are rung for. A topic says where to look, never what there is to see.

A topic of one thing has its id after a colon. Other processes hear only that something of its kind happened: whoever
listens to the kind there looks up what it was, once for everybody.
"""

QUEUE = "queue"
"""Replies wait to be made."""
STOP = "stop"
"""Somebody wants a reply stopped."""
ANY_REPLY = "reply:*"
"""Replies that other processes make have gone on."""


ANY_USER = "user:*"
"""Something has happened to conversations, by other processes."""


def user_topic(user_id: str) -> str:
    return f"user:{user_id}"


def reply_topic(reply_id: str) -> str:
    return f"reply:{reply_id}"


def elsewhere(topic: str) -> str:
    """What a ring of the topic is to other processes: the kind, without the id."""
    kind, colon, _ = topic.partition(":")
    return f"{kind}:*" if colon else kind
