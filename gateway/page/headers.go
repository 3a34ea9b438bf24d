package page

import (
	"net/http"
	"strings"
)

// policy is the Content-Security-Policy of every page. 'self' in connect-src covers the WebSocket of the precall test.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// policyWith is the policy of a page whose scripts may connect to more: origins, from the configuration.
func policyWith(sources []string) string {
	return strings.Replace(policy, "connect-src 'self'", "connect-src 'self' "+strings.Join(sources, " "), 1)
}

// permissions lets our own pages ask for camera and microphone and nobody for anything else.
const permissions = "camera=(self), microphone=(self), autoplay=(self), display-capture=(), geolocation=(), payment=(), usb=(), midi=(), " +
	"serial=(), hid=()"

// Headers sets the security headers that everything the gateway answers by itself carries, the same on each page, and
// forbids storing the answer. A handler of assets sets Cache-Control anew.
func Headers(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY") // frame-ancestors, for what is older than CSP 2
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Permissions-Policy", permissions)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// Secure sets Headers on every answer of a handler.
func Secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Headers(w.Header())
		next.ServeHTTP(w, r)
	})
}
