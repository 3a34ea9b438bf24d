package netpolicy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestErrorText(t *testing.T) {
	addr := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	read := &net.OpError{Op: "read", Net: "tcp", Source: addr("10.0.0.2:443"), Addr: addr("10.2.3.4:60632"), Err: os.ErrDeadlineExceeded}
	write := &net.OpError{
		Op: "write", Net: "tcp", Source: addr("[2001:db8::1]:443"), Addr: addr("[2001:db8::2]:50000"),
		Err: os.NewSyscallError("write", syscall.EPIPE),
	}
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"none":              {nil, ""},
		"no network error":  {io.ErrUnexpectedEOF, "unexpected EOF"},
		"bare":              {read, "read: i/o timeout"},
		"with a syscall":    {write, "write: write: broken pipe"},
		"wrapped":           {fmt.Errorf("answer the client: %w", read), "answer the client: read: i/o timeout"},
		"wrapped twice":     {fmt.Errorf("a: %w (b)", fmt.Errorf("c: %w", read)), "a: c: read: i/o timeout (b)"},
		"in an Error":       {fail("dial", "call.example:443", write), "dial call.example:443: write: write: broken pipe"},
		"joined":            {errors.Join(read, io.EOF, write), "read: i/o timeout\nEOF\nwrite: write: broken pipe"},
		"two in a sentence": {fmt.Errorf("%w, then %w", read, write), "read: i/o timeout, then write: write: broken pipe"},
		"one in another":    {&net.OpError{Op: "proxyproto", Net: "tcp", Addr: addr("10.9.9.9:1"), Err: read}, "proxyproto: read: i/o timeout"},
		"without addresses": {&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, "remote error: tls: bad certificate"},
		"without a cause":   {joined{}, "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ErrorText(tt.err); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// joined wraps nothing that is there.
type joined struct{}

func (joined) Error() string   { return "nothing" }
func (joined) Unwrap() []error { return []error{nil} }
