package relay

import (
	"errors"
	"net"
	"time"

	"github.com/pion/stun/v2"
)

// cloudConn is an uplink as pion's client wants it. It is written to only: what is read comes through fromRegion.
type cloudConn struct {
	up                 *upstream
	want               wanted
	username, password string
}

func (c *cloudConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	msg := p
	if messageType(p) == allocateRequest && (c.want.family != 0 || c.want.evenPort) {
		var err error
		if msg, err = c.amend(p); err != nil {
			return 0, err
		}
	}
	if err := c.up.send([][]byte{msg}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// amend puts what the client wants into an Allocate, and signs it anew: pion's client can't ask for an address family, nor for an
// even port.
func (c *cloudConn) amend(p []byte) ([]byte, error) {
	var m message
	if err := m.parse(p); err != nil {
		return nil, err
	}
	setters := []stun.Setter{
		stun.NewType(m.method, m.class), stun.NewTransactionIDSetter(m.id),
		stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: m.transport},
	}
	if c.want.family != 0 {
		setters = append(setters, stun.RawAttribute{Type: stun.AttrRequestedAddressFamily, Value: []byte{c.want.family, 0, 0, 0}})
	}
	if c.want.evenPort {
		setters = append(setters, stun.RawAttribute{Type: stun.AttrEvenPort, Value: []byte{0}})
	}
	if m.integrity != nil {
		setters = append(setters, stun.Username(m.username), stun.Realm(m.realm), stun.Nonce(m.nonce),
			stun.NewLongTermIntegrity(c.username, string(m.realm), c.password))
	}
	out, err := stun.Build(append(setters, stun.Fingerprint)...)
	if err != nil {
		return nil, err
	}
	return out.Raw, nil
}

func (c *cloudConn) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, errors.ErrUnsupported }
func (c *cloudConn) Close() error                           { return nil }
func (c *cloudConn) LocalAddr() net.Addr                    { return c.up.LocalAddr() }
func (c *cloudConn) SetDeadline(time.Time) error            { return nil }
func (c *cloudConn) SetReadDeadline(time.Time) error        { return nil }
func (c *cloudConn) SetWriteDeadline(time.Time) error       { return nil }
