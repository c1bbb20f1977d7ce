"""What the vault cannot do."""


class VaultError(Exception):
    """A payload cannot be encrypted or decrypted here. The message says which, why, and what would be right."""
