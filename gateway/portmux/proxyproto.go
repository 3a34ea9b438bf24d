package portmux

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/pires/go-proxyproto"
)

var errNoProxyHeader = errors.New("no PROXY protocol header from a balancer that must send one")

// readProxyHeader takes a PROXY protocol header (version 1 or 2) off the front and believes it. The header may come in
// pieces; its bytes, and not one more, are consumed.
//
// A header that names no TCP client (LOCAL, UNKNOWN) is a balancer's own health check: the address stays its own, and
// Admit judges that.
func (c *Conn) readProxyHeader() error {
	raw, err := readRawHeader(&c.wire)
	if err != nil {
		return err
	}
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return fmt.Errorf("PROXY protocol header: %w", err)
	}
	if _, err := h.TLVs(); err != nil {
		return fmt.Errorf("PROXY protocol header: %w", err)
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		return nil
	}
	source, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok || !h.TransportProtocol.IsStream() {
		return fmt.Errorf("PROXY protocol header without a TCP client: %v", h.SourceAddr)
	}
	c.setClient(source)
	return nil
}

const (
	proxyV1Max    = 107 // bytes of a version 1 line, CR LF included
	proxyV2Prefix = 16  // signature, command, family, length
	proxyV2Max    = 4096
)

// readRawHeader reads exactly one header. Its own parsing is where the header ends, no more: the library's reader would
// wait for more bytes or refuse a line that comes in pieces.
func readRawHeader(r io.Reader) ([]byte, error) {
	b := make([]byte, proxyV2Prefix, proxyV1Max)
	if _, err := io.ReadFull(r, b[:6]); err != nil {
		return nil, err
	}
	switch {
	case string(b[:6]) == "PROXY ":
		b = b[:6]
		for !bytes.HasSuffix(b, []byte("\r\n")) {
			if len(b) == proxyV1Max {
				return nil, proxyproto.ErrVersion1HeaderTooLong
			}
			b = b[:len(b)+1]
			if _, err := io.ReadFull(r, b[len(b)-1:]); err != nil {
				return nil, err
			}
		}
		return b, nil
	case !bytes.Equal(b[:6], proxyproto.SIGV2[:6]):
		return nil, errNoProxyHeader
	}
	if _, err := io.ReadFull(r, b[6:]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(b[proxyV2Prefix-2:]))
	if length > proxyV2Max {
		return nil, proxyproto.ErrInvalidLength
	}
	b = append(b, make([]byte, length)...)
	_, err := io.ReadFull(r, b[proxyV2Prefix:])
	return b, err
}
