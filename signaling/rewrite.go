package signaling

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// askPlainly makes a request whose answer will be rewritten one for the whole answer as it is: not compressed, not a part of it, and
// not for the news that a copy made before is still right.
func askPlainly(h http.Header) {
	for _, name := range []string{"Accept-Encoding", "Range", "If-Range", "If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since"} {
		h.Del(name)
	}
}

// rewriteAnswer puts the gateway into the ICE servers of a JSON answer. An answer that is none, or too long, passes as it is.
func rewriteAnswer(res *http.Response, rw *rewriter, client netip.Addr) error {
	if res.Request.Method == http.MethodHead || !isJSON(res) {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxRewritten+1))
	if err != nil {
		return err
	}
	if len(text) > maxRewritten {
		res.Body = &prefixed{Reader: io.MultiReader(bytes.NewReader(text), res.Body), Closer: res.Body}
		return nil
	}
	text, changed := rw.rewrite(text, client)
	res.Body = &prefixed{Reader: bytes.NewReader(text), Closer: res.Body}
	if !changed {
		return nil
	}
	res.ContentLength = int64(len(text))
	res.TransferEncoding = nil
	res.Header.Set("Content-Length", strconv.Itoa(len(text)))
	// These were about other bytes (RFC 9110 section 8.8, RFC 9530).
	for _, name := range []string{"ETag", "Last-Modified", "Accept-Ranges", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest"} {
		res.Header.Del(name)
	}
	if rw.mint != nil {
		res.Header.Set("Cache-Control", "no-store") // credentials of one client
	}
	return nil
}

// isJSON reports whether an answer may have ICE servers in it: a whole one, in JSON as far as can be told, and not compressed all the same.
func isJSON(res *http.Response) bool {
	if res.StatusCode < 200 || res.StatusCode > 299 || res.StatusCode == http.StatusPartialContent || res.StatusCode == http.StatusNoContent {
		return false
	}
	if encoding := res.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return false
	}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return kind == "" || kind == "text/plain" || strings.Contains(kind, "json")
}

// prefixed is a body of which a part has been read before.
type prefixed struct {
	io.Reader
	io.Closer
}
