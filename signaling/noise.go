package signaling

import (
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"hafen/gateway/netpolicy"
)

// noise lets a few lines a second through about what strangers can cause at will, and counts the rest.
type noise struct {
	log *slog.Logger
	now func() time.Time

	mu         sync.Mutex
	second     time.Time
	lines      int
	suppressed int
}

const linesASecond = 5

func newNoise(log *slog.Logger, now func() time.Time) *noise {
	return &noise{log: log, now: now}
}

func (n *noise) warn(message string, args ...any) {
	n.mu.Lock()
	if second := n.now().Truncate(time.Second); !second.Equal(n.second) {
		n.second, n.lines = second, 0
	}
	n.lines++
	if n.lines > linesASecond {
		n.suppressed++
		n.mu.Unlock()
		return
	}
	if n.suppressed > 0 {
		args = append(args, "suppressed", n.suppressed)
		n.suppressed = 0
	}
	n.mu.Unlock()
	n.log.Warn(message, args...)
}

// shortClient is the client as logs show it: its network, or with log.full_addresses its address.
func (p *Proxy) shortClient(r *http.Request) string {
	a := clientOf(r)
	if !a.IsValid() || p.config().Log.FullAddresses {
		return a.String()
	}
	bits := 48
	if a.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(a, bits).Masked().String()
}

// logText is an error as logs may have it: without addresses, unless log.full_addresses is set.
func (p *Proxy) logText(err error) string {
	if p.config().Log.FullAddresses {
		return err.Error()
	}
	return netpolicy.ErrorText(err)
}
