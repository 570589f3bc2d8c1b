-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

{"critical":{"identity":{"docker-reference":"r.example/a:v1"},"image":{"docker-manifest-digest":"sha256:25ace93237d66b2094f31c89a0eb1653978074fddd5728459ab85f9c90372f72"},"type":"atomic container signature"},"optional":{"creator":"make","timestamp":1748779200}}
-----BEGIN PGP SIGNATURE-----

iIMEARYIACsWIQTHl2H5g7FfN2X6YavuqePCkR9LlwUCaD2SQA0cZ29vZEBleGFt
cGxlAAoJEO6p48KRH0uXipMBAJH12W+QKn27+JJ4fr9SIJz5pYCQW8941Xxs01tE
WlPPAQDhUWDyvefAd15p1sXANROTzF5urouf2rQfr9T7uyRmBA==
=+RAi
-----END PGP SIGNATURE-----
