package cloud

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

const (
	maxTransfer = 1 << 30
	maxEcho     = 1 << 20
	// echoIdle is longer than anybody's idle time-out that is worth measuring.
	echoIdle = time.Hour
	// transferTimeout is for the next bytes of an upload or download, not for all of it.
	transferTimeout = 30 * time.Second
)

// serveEcho sends every WebSocket message back, in whatever subprotocol and compression the client offers.
func (c *Cloud) serveEcho(w http.ResponseWriter, r *http.Request) {
	c.serving.Add(1) // before the connection is hijacked: until then Shutdown waits for it
	defer c.serving.Done()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:    offeredProtocols(r),
		OriginPatterns:  c.opts.Origins,
		CompressionMode: websocket.CompressionNoContextTakeover,
	})
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(maxEcho)
	for c.echoOne(r, ws) == nil {
		continue
	}
}

func offeredProtocols(r *http.Request) []string {
	var offered []string
	for p := range strings.SplitSeq(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ","), ",") {
		if p = strings.TrimSpace(p); p != "" {
			offered = append(offered, p)
		}
	}
	return offered
}

func (c *Cloud) echoOne(r *http.Request, ws *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(r.Context(), echoIdle)
	defer cancel()
	kind, b, err := ws.Read(ctx)
	if err != nil {
		return err
	}
	return ws.Write(ctx, kind, b)
}

// serveHold answers after ?s= seconds, and sends nothing before: does everything on the way keep still that long?
func (c *Cloud) serveHold(w http.ResponseWriter, r *http.Request) {
	d := held(r.FormValue("s"), c.opts.Hold)
	began := time.Now()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		writeJSON(w, map[string]float64{"asked": d.Seconds(), "held": time.Since(began).Seconds()})
	case <-r.Context().Done():
	}
}

// serveEvents sends a server-sent event every ?every= milliseconds (1000), ?n= of them (60).
func (c *Cloud) serveEvents(w http.ResponseWriter, r *http.Request) {
	every, n := number(r, "every", 1000, 60_000), number(r, "n", 60, 10_000)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	tick := time.NewTicker(time.Duration(max(every, 1)) * time.Millisecond)
	defer tick.Stop()
	for i := int64(1); i <= n; i++ {
		_ = out.SetWriteDeadline(time.Now().Add(transferTimeout))
		if _, err := fmt.Fprintf(w, "id: %d\ndata: {\"n\":%d,\"time\":%q}\n\n", i, i, time.Now().UTC().Format(time.RFC3339Nano)); err != nil {
			return
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// serveUpload counts and hashes what it is sent.
func (c *Cloud) serveUpload(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	in := &patientReader{http.MaxBytesReader(w, r.Body, maxTransfer), http.NewResponseController(w)}
	n, err := io.Copy(sum, in)
	if err != nil {
		http.Error(w, "upload: "+err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, map[string]any{"bytes": n, "sha256": hex.EncodeToString(sum.Sum(nil))})
}

// patientReader waits for each piece, but not for ever.
type patientReader struct {
	io.Reader
	control *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(transferTimeout))
	return p.Reader.Read(b)
}

// serveDownload sends ?bytes= bytes of nothing in particular.
func (c *Cloud) serveDownload(w http.ResponseWriter, r *http.Request) {
	left := number(r, "bytes", 1<<20, maxTransfer)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.FormatInt(left, 10))
	control := http.NewResponseController(w)
	for chunk := make([]byte, 32<<10); left > 0; {
		_ = control.SetWriteDeadline(time.Now().Add(transferTimeout))
		n, err := w.Write(chunk[:min(left, int64(len(chunk)))])
		if err != nil {
			return
		}
		left -= int64(n)
	}
}

// number reads a query parameter between 0 and most.
func number(r *http.Request, key string, otherwise, most int64) int64 {
	n, err := strconv.ParseInt(r.FormValue(key), 10, 64)
	if err != nil || n < 0 || n > most {
		return otherwise
	}
	return n
}
