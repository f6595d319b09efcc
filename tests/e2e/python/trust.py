"""Whom the clients of these tests trust."""

import ssl


def only(authority):
    """TLS with servers whose certificate comes from this authority's file, as strict as Python is from 3.13 on."""
    context = ssl.create_default_context(cafile=authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context
