package precall

import (
	"slices"
	"strings"
)

// ClientHello is what a client's TLS began with.
type ClientHello struct {
	GREASE     bool
	ALPN       []string
	Extensions []uint16
}

// recordSizeLimit is an extension that Firefox sends (RFC 8449) and most programs that open TLS do not.
const recordSizeLimit = 28

// JudgeHello holds a ClientHello against the browser that the request says it is. A browser's own looks the same in every release of
// years; what opens TLS on the way greets in a manner of its own. nil is a request without TLS.
func JudgeHello(userAgent string, h *ClientHello) Handshake {
	if h == nil {
		return Handshake{}
	}
	var missing []string
	want := func(has bool, what string) {
		if !has {
			missing = append(missing, what)
		}
	}
	switch {
	case strings.Contains(userAgent, "Firefox/") && !strings.Contains(userAgent, "Seamonkey"):
		want(slices.Contains(h.Extensions, recordSizeLimit), "record_size_limit")
		want(!h.GREASE, "no GREASE")
	case strings.Contains(userAgent, "Chrome/"), strings.Contains(userAgent, "AppleWebKit/") && strings.Contains(userAgent, "Safari/"):
		want(h.GREASE, "GREASE")
		want(slices.Contains(h.ALPN, "http/1.1"), "ALPN http/1.1")
	default:
		return Handshake{}
	}
	return Handshake{Judged: true, Intercepted: len(missing) > 0, Missing: strings.Join(missing, ", ")}
}

// addedHeaders are those that no browser sends and proxies add, by the names that they have in print.
var addedHeaders = []string{
	"Via", "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip", "Client-Ip", "X-Client-Ip", "X-Bluecoat-Via",
	"X-Proxy-Id", "X-Iwproxy", "X-Authenticated-User", "X-Authenticated-Groups", "Proxy-Connection", "X-Zscaler-Request-Id",
	"X-Proxyuser-Ip", "X-Imforwards", "Surrogate-Capability",
}

// AddedHeaders are the headers of a request that something on the way has added, names only.
func AddedHeaders(header map[string][]string) (names []string) {
	for _, name := range addedHeaders {
		if len(header[name]) > 0 {
			names = append(names, name)
		}
	}
	return names
}
