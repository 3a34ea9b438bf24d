package portmux

import "crypto/tls"

// ServerConfig is how this program speaks TLS to clients: TLS 1.2 with ECDHE and an AEAD, or 1.3, the hybrid
// post-quantum key exchange preferred, no early data (crypto/tls has none on TCP).
func ServerConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), protos ...string) *tls.Config {
	return &tls.Config{
		GetCertificate: certificate,
		// Records are what the owners write: relayed packets of 1,200 bytes would be cut in two at first.
		DynamicRecordSizingDisabled: true,
		NextProtos:                  protos,
		MinVersion:                  tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; 1.3 has only good ones
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
	}
}
