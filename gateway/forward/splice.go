package forward

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	idleSize  = 512      // held while a direction is silent
	burstSize = 32 << 10 // borrowed while it is not; two TLS records
	bulkSize  = 4 << 20  // at most, by splice(2), before the counters move
	pause     = time.Second
)

// activity tells when something last moved through a tunnel, in either direction.
type activity struct{ last atomic.Int64 }

func (a *activity) touch() { a.last.Store(time.Now().UnixNano()) }

func (a *activity) begun() bool { return a.last.Load() != 0 }

func (a *activity) silence() time.Duration { return time.Since(time.Unix(0, a.last.Load())) }

// flow is one direction of a tunnel.
type flow struct {
	src, dst net.Conn
	moved    *atomic.Int64
	total    prometheus.Counter
	activity *activity
	buffers  *sync.Pool // of *[burstSize]byte
	until    time.Time  // the deadline of src while there is much to move
	yielding atomic.Bool
}

// errYielded says that a direction goes on elsewhere.
var errYielded = errors.New("it goes on elsewhere")

// yield has run return errYielded, unless it ends otherwise. No byte is lost.
func (f *flow) yield() {
	f.yielding.Store(true)
	_ = f.src.SetReadDeadline(time.Unix(1, 0)) // if burst lifts it, run sees the mark
}

// run moves first and then everything that src sends, until src ends; that is passed on as a half-close.
func (f *flow) run(first []byte) error {
	if err := f.write(first); err != nil {
		return err
	}
	idle := make([]byte, idleSize)
	for {
		if f.yielding.Load() {
			return errYielded
		}
		n, err := f.src.Read(idle)
		if werr := f.write(idle[:n]); werr != nil {
			return werr
		}
		if err == nil && n == len(idle) {
			err = f.burst() // a full buffer is the sign of more to come
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = closeWrite(f.dst) // where this fails, the other direction fails as well, and says why
			return nil
		case f.yielding.Load() && errors.Is(err, os.ErrDeadlineExceeded): // seen above
		case err != nil:
			return err
		}
	}
}

// burst moves bytes while there are many: in the kernel if both ends are sockets, else through a large buffer. Either
// costs something (a pipe's two descriptors, 32 KiB), so it returns, with nil, when src has paused.
func (f *flow) burst() error {
	defer f.calm()
	step := f.kernel
	if _, ok := f.src.(*net.TCPConn); !ok || !isTCP(f.dst) {
		buf := f.buffers.Get().(*[burstSize]byte)
		defer f.buffers.Put(buf)
		step = func() (int64, error) {
			n, err := f.src.Read(buf[:])
			if werr := f.write(buf[:n]); werr != nil {
				return 0, werr
			}
			return int64(n), err
		}
	}
	for {
		f.hurry()
		n, err := step()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if n < idleSize {
			return nil
		}
	}
}

// hurry has the next step end when src pauses. Moving the deadline for every piece would cost more than it is worth.
func (f *flow) hurry() {
	if now := time.Now(); f.until.Sub(now) < pause/2 {
		f.until = now.Add(pause)
		_ = f.src.SetReadDeadline(f.until)
	}
}

func (f *flow) calm() {
	f.until = time.Time{}
	_ = f.src.SetReadDeadline(f.until)
}

func isTCP(c net.Conn) bool {
	_, ok := c.(*net.TCPConn)
	return ok
}

// kernel moves bytes by splice(2), which io.Copy finds in (*net.TCPConn).ReadFrom. A deadline loses nothing: it is of the
// reading half only.
func (f *flow) kernel() (int64, error) {
	n, err := io.CopyN(f.dst, f.src, bulkSize) // io.EOF when src ended before
	f.count(n)
	return n, err
}

func (f *flow) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := f.dst.Write(b)
	f.count(int64(n))
	return err
}

func (f *flow) count(n int64) {
	if n > 0 {
		f.moved.Add(n)
		f.total.Add(float64(n))
		f.activity.touch()
	}
}

// closeWrite tells a peer that nothing more comes; one that can't be told is closed.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
