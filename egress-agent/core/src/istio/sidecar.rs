//! `Sidecar`: which services a workload sees, and what happens to everything else.

use super::decode::macros::{enums, messages};
use super::destination_rule::ConnectionPoolSettings;
use super::fields::{Destination, WorkloadSelector};

enums! {
    /// How traffic reaches a listener.
    CaptureMode = "CaptureMode" {
        /// As the environment has it.
        Default = "0" "DEFAULT",
        /// By redirection.
        Iptables = "1" "IPTABLES",
        /// Not at all; clients dial the listener.
        None = "2" "NONE",
    }

    /// What happens to traffic that no service matches.
    OutboundTrafficPolicyMode = "OutboundTrafficPolicy.Mode" refuse(
        "3" "ALLOW_ANY_DYNAMIC_DNS"
        "sidecar: ALLOW_ANY_DYNAMIC_DNS mode is only supported in MeshConfig, not in Sidecar resource"
    ) {
        /// Refused. Being number 0, this is also what `outboundTrafficPolicy: {}` means.
        RegistryOnly = "0" "REGISTRY_ONLY",
        /// Let through.
        AllowAny = "1" "ALLOW_ANY",
    }

    /// TLS of a listener (`networking/v1alpha3/gateway.proto`).
    ServerTlsMode = "ServerTLSSettings.TLSmode" {
        /// Forwarded by SNI.
        Passthrough = "0" "PASSTHROUGH",
        /// TLS with a server certificate.
        Simple = "1" "SIMPLE",
        /// TLS with a client certificate too.
        Mutual = "2" "MUTUAL",
        /// Forwarded by SNI without a `VirtualService`.
        AutoPassthrough = "3" "AUTO_PASSTHROUGH",
        /// TLS with the mesh's certificates.
        IstioMutual = "4" "ISTIO_MUTUAL",
        /// TLS with an optional client certificate.
        OptionalMutual = "5" "OPTIONAL_MUTUAL",
    }

    /// TLS version of a listener.
    TlsProtocol = "ServerTLSSettings.TLSProtocol" {
        /// The default.
        TlsAuto = "0" "TLS_AUTO",
        /// TLS 1.0.
        TlsV1_0 = "1" "TLSV1_0",
        /// TLS 1.1.
        TlsV1_1 = "2" "TLSV1_1",
        /// TLS 1.2.
        TlsV1_2 = "3" "TLSV1_2",
        /// TLS 1.3.
        TlsV1_3 = "4" "TLSV1_3",
    }
}

messages! {
    /// What one workload sees (`networking/v1alpha3/sidecar.proto`).
    Sidecar {
        /// Workloads that it is for; unset means all of the namespace.
        workload_selector: Option<WorkloadSelector> = "workloadSelector",
        /// Listeners for traffic to the workload; of no meaning for egress.
        ingress: Vec<IstioIngressListener> = "ingress",
        /// Listeners for traffic from the workload; empty means all services.
        egress: Vec<IstioEgressListener> = "egress",
        /// Limits for traffic to the workload.
        inbound_connection_pool: Option<Box<ConnectionPoolSettings>> = "inboundConnectionPool",
        /// What happens to the rest; unset means the agent's own mode.
        outbound_traffic_policy: Option<OutboundTrafficPolicy> = "outboundTrafficPolicy",
    }

    /// A listener for traffic to the workload.
    IstioIngressListener {
        /// Port of the listener.
        port: Option<SidecarPort> = "port",
        /// Address of the listener.
        bind: String = "bind",
        /// How traffic reaches it.
        capture_mode: CaptureMode = "captureMode",
        /// Where traffic is handed on: `IP:PORT` or `unix://` path.
        default_endpoint: String = "defaultEndpoint",
        /// TLS of the listener.
        tls: Option<Box<ServerTlsSettings>> = "tls",
        /// Limits.
        connection_pool: Option<Box<ConnectionPoolSettings>> = "connectionPool",
    }

    /// A listener for traffic from the workload.
    IstioEgressListener {
        /// Port; unset means every port of the services.
        port: Option<SidecarPort> = "port",
        /// Address of the listener, or a `unix://` path.
        bind: String = "bind",
        /// How traffic reaches it.
        capture_mode: CaptureMode = "captureMode",
        /// Services that it sees, as `namespace/host`.
        hosts: Vec<String> = "hosts",
    }

    /// A port of a listener.
    SidecarPort {
        /// Port number.
        number: u32 = "number",
        /// Protocol as it is written.
        protocol: String = "protocol",
        /// Name.
        name: String = "name",
        /// Deprecated; no effect.
        target_port: u32 = "targetPort",
    }

    /// What happens to traffic that no service matches.
    OutboundTrafficPolicy {
        /// Deny or allow.
        mode: OutboundTrafficPolicyMode = "mode",
        /// Where to send it instead of its own destination; only with `ALLOW_ANY`.
        egress_proxy: Option<Destination> = "egressProxy",
    }

    /// TLS of a listener for traffic to the workload; of no meaning for egress.
    ServerTlsSettings {
        /// Redirect HTTP to HTTPS.
        https_redirect: bool = "httpsRedirect",
        /// Kind of TLS.
        mode: ServerTlsMode = "mode",
        /// File of the server's certificate.
        server_certificate: String = "serverCertificate",
        /// File of its key.
        private_key: String = "privateKey",
        /// File of the authorities for client certificates.
        ca_certificates: String = "caCertificates",
        /// File of revoked certificates.
        ca_crl: String = "caCrl",
        /// Secret that holds the certificates.
        credential_name: String = "credentialName",
        /// Secrets that hold the certificates.
        credential_names: Vec<String> = "credentialNames",
        /// Secret that holds the authorities.
        ca_cert_credential_name: String = "caCertCredentialName",
        /// Certificate files, several.
        tls_certificates: Vec<TlsCertificate> = "tlsCertificates",
        /// Names that a client certificate must have one of.
        subject_alt_names: Vec<String> = "subjectAltNames",
        /// Hashes of accepted client certificates, of their public key.
        verify_certificate_spki: Vec<String> = "verifyCertificateSpki",
        /// Hashes of accepted client certificates.
        verify_certificate_hash: Vec<String> = "verifyCertificateHash",
        /// Oldest version.
        min_protocol_version: TlsProtocol = "minProtocolVersion",
        /// Newest version.
        max_protocol_version: TlsProtocol = "maxProtocolVersion",
        /// Cipher suites.
        cipher_suites: Vec<String> = "cipherSuites",
    }

    /// A certificate with its key.
    TlsCertificate {
        /// File of the certificate.
        server_certificate: String = "serverCertificate",
        /// File of the key.
        private_key: String = "privateKey",
        /// File of the authorities.
        ca_certificates: String = "caCertificates",
    }
}
