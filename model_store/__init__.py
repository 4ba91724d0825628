"""What a version is (`manifest`) and where its bytes lie (`store`): one interface, a local directory and S3 behind it."""
