// Package e2e holds the tests of the whole product: the binary in a laboratory of network namespaces, with real
// Chromium browsers inside an office where only TCP 443 to the gateway is open, Debian's coturn as cloud relays and
// Debian's Squid as the company's proxy. It has no code of its own.
package e2e
