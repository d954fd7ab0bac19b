"""What tests share: small models and data, stand-ins, processes. No test is here."""
