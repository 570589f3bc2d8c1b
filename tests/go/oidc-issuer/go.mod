module oidc-issuer

go 1.26.0
