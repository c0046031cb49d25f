"""What tests are built from: conformance suites, a scripted registry, builders. Nothing else imports it."""
