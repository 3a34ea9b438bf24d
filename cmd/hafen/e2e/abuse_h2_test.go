package e2e

import (
	"bytes"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Start says the preface of HTTP/2 and its settings, and returns a framer.
func h2Start(conn net.Conn) *http2.Framer {
	_, _ = io.WriteString(conn, http2.ClientPreface)
	f := http2.NewFramer(conn, conn)
	_ = f.WriteSettings()
	return f
}

// h2Head packs a header block.
func h2Head(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// h2Status reads frames until the answer on a stream, and returns its status or how the stream ended.
func h2Status(conn net.Conn, f *http2.Framer, stream uint32) (string, error) {
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "", err
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream {
				return frame.PseudoValue("status"), nil
			}
		case *http2.RSTStreamFrame:
			return "reset " + frame.ErrCode.String(), nil
		case *http2.GoAwayFrame:
			return "goaway " + frame.ErrCode.String(), nil
		}
	}
}

// h2Connect asks for a tunnel over HTTP/2.
func h2Connect(conn net.Conn, target string) (string, error) {
	f := h2Start(conn)
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: h2Head(":method", "CONNECT", ":authority", target)})
	return h2Status(conn, f, 1)
}
