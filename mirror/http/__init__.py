"""The guarded HTTP stack.

Every outgoing connection except those to Redis and S3 goes through it. It knows no registry. A caller builds one
`Transport` per process and shares it between threads:

    transport = Transport(AddressGuard(settings.allowed_networks))
    with transport.request("POST", url, headers, server="hooks.example", body=body) as response:
        text = response.read(64 * 1024, "the receipt")

- The connected address is checked, not the name. Private networks are refused unless `MIRROR_ALLOWED_NETWORKS` names
  them. TLS certificates are verified. Proxies and .netrc of the environment are ignored.
- A request with its response has 60 seconds. `deadlines.shared_deadline` lets several requests share them.
- Redirects are not followed. `Redirects` follows them, and drops the Authorization at another origin.
- A response body is read only as far as a limit that the caller names.
- Every failure is a `mirror.errors.SourceError`. Its text has the name given as *server*, and never a URL's path or
  query. A status of 400 or higher is no failure here: the caller decides what it means.
"""
