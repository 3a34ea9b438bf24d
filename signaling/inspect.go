package signaling

import (
	"crypto/tls"
	"encoding/base64"
	"net"
	"net/http"
	"slices"
	"strings"

	"hafen/configs"
)

// refusal is an answer of the gateway's own to a request that is not passed on.
type refusal struct {
	code   int
	status string
	text   string
	header [2]string // one header, if any
}

var misdirected = &refusal{code: http.StatusMisdirectedRequest, status: statusPolicy, text: "This gateway knows no call server of that name."}

// maxURI is longer than any call service's URLs and shorter than what makes servers disagree.
const maxURI = 32 << 10

// methods are those that pass. TRACE would show headers that we add; CONNECT is the forward proxy's.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func odd(text string) *refusal {
	return &refusal{code: http.StatusBadRequest, status: statusProtocol, text: text}
}

// inspect refuses what no browser sends and what the gateway and a call server might understand differently. net/http has
// refused or normalised the rest before.
func inspect(r *http.Request, host string) *refusal {
	if !slices.Contains(methods, r.Method) {
		return &refusal{code: http.StatusMethodNotAllowed, status: statusProtocol, text: "This method is not passed on.", header: [2]string{"Allow", strings.Join(methods, ", ")}}
	}
	checks := []func(*http.Request, string) *refusal{checkVersion, checkURI, checkHost, checkHeaders, checkUpgrade}
	for _, check := range checks {
		if refused := check(r, host); refused != nil {
			return refused
		}
	}
	return nil
}

func checkVersion(r *http.Request, _ string) *refusal {
	switch [2]int{r.ProtoMajor, r.ProtoMinor} {
	case [2]int{1, 0}, [2]int{1, 1}, [2]int{2, 0}:
		return nil
	}
	return odd("This version of HTTP is not spoken here.")
}

// checkURI lets only the origin form pass (RFC 9112 section 3.2.1). Of the absolute form net/http has already taken the host, so that it can't be
// compared with the Host header any more.
func checkURI(r *http.Request, _ string) *refusal {
	uri := r.RequestURI
	switch {
	case len(uri) > maxURI:
		return &refusal{code: http.StatusRequestURITooLong, status: statusProtocol, text: "This address is too long."}
	case !strings.HasPrefix(uri, "/") || strings.HasPrefix(uri, "//") || r.URL.Host != "":
		return odd("A request names a path that begins with one slash.")
	case strings.ContainsAny(uri, "#\x00\r\n\t "):
		return odd("This address has characters that addresses can't have.")
	}
	return nil
}

// checkHost wants a host, and the same one that the TLS was for. Browsers may reuse a connection for another name of its certificate;
// 421 tells them to open one of its own (RFC 9110 section 15.5.20).
func checkHost(r *http.Request, host string) *refusal {
	if host == "" || strings.ContainsAny(r.Host, "/\\@?#, ") {
		return odd("A request names one host.")
	}
	if r.TLS != nil && r.TLS.ServerName != "" && configs.CanonicalHost(r.TLS.ServerName) != host {
		return misdirected
	}
	return nil
}

// requestHost is the host that a request names, without its port, in canonical form.
func requestHost(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return configs.CanonicalHost(strings.Trim(host, "[]"))
}

// checkHeaders refuses the underscore forms of the headers that frame a request: many servers take Transfer_Encoding for Transfer-Encoding.
func checkHeaders(r *http.Request, _ string) *refusal {
	for name := range r.Header {
		if !strings.Contains(name, "_") {
			continue
		}
		switch headerKey(name) {
		case "transfer-encoding", "content-length", "connection", "upgrade", "host", "te", "trailer", "expect":
			return odd("This request has a header with an underscore that frames messages.")
		}
	}
	if expect := r.Header["Expect"]; len(expect) > 0 && (len(expect) > 1 || !strings.EqualFold(expect[0], "100-continue")) {
		return &refusal{code: http.StatusExpectationFailed, status: statusProtocol, text: "Nothing but 100-continue can be expected here."}
	}
	return nil
}

// isUpgrade reports whether a request that passed inspect is a WebSocket handshake.
func isUpgrade(r *http.Request) bool { return len(r.Header["Upgrade"]) > 0 }

// checkUpgrade lets one kind of upgrade pass, a whole WebSocket handshake (RFC 6455 section 4.1). A server that takes h2c or an unfinished
// handshake for an upgrade would read what follows as another protocol than we do.
func checkUpgrade(r *http.Request, _ string) *refusal {
	upgrade := r.Header["Upgrade"]
	if len(upgrade) == 0 {
		return nil
	}
	version, key := r.Header["Sec-Websocket-Version"], r.Header["Sec-Websocket-Key"]
	switch {
	case len(upgrade) > 1 || !strings.EqualFold(upgrade[0], "websocket"):
		return odd("No upgrade but websocket is passed on.")
	case r.ProtoMajor != 1 || r.ProtoMinor != 1 || r.Method != http.MethodGet:
		return odd("A WebSocket begins with GET and HTTP/1.1.")
	case !hasToken(r.Header["Connection"], "upgrade"):
		return odd("A WebSocket's Connection header says Upgrade.")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return odd("A WebSocket handshake has no body.")
	case len(version) != 1 || version[0] != "13":
		return &refusal{code: http.StatusBadRequest, status: statusProtocol, text: "Only version 13 of WebSocket is passed on.", header: [2]string{"Sec-WebSocket-Version", "13"}}
	case len(key) != 1 || !isKey(key[0]):
		return odd("A WebSocket handshake has one key of 16 bytes.")
	}
	return nil
}

func isKey(key string) bool {
	raw, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(raw) == 16
}

// hasToken reports whether a comma-separated header has a token.
func hasToken(values []string, token string) bool {
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// scheme is how the client speaks to the gateway.
func scheme(state *tls.ConnectionState) string {
	if state == nil {
		return "http"
	}
	return "https"
}
