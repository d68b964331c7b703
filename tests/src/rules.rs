//! Rules that several suites apply: the shipped examples, and a host whose TCP port bypasses the proxy.

/// `httpbin.org`, HTTP.
pub const HTTPBIN: &str = include_str!("../../examples/httpbin-serviceentry.yaml");

/// `www.google.com`, TLS.
pub const GOOGLE: &str = include_str!("../../examples/google.yaml");

/// Three seconds for a request to `httpbin.org`.
pub const TIMEOUT: &str = include_str!("../../examples/httpbin-timeout.yaml");

/// `echo.example`, TCP at port 7.
pub const ECHO: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.example]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: DNS
";

/// `www.google.com`, TLS, without the route of [`GOOGLE`].
pub const GOOGLE_ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: google}
spec:
  hosts: [www.google.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
";

/// A host for each path of bytes: directly, and by HTTP and TLS through the proxy.
pub fn each_way() -> String {
    [ECHO, HTTPBIN, GOOGLE_ENTRY].join("\n---\n")
}
