"""The vault: payloads encrypted with a key a stream. Off unless somebody makes one, and not even imported then."""
