package relay

import (
	"net/netip"
	"time"

	"hafen/gateway/netpolicy"
)

// refused tells that this region answered 401 or 441 to a client's signed Allocate. If the client had asked for another
// region, it gets that one from then on: the credentials may be good nowhere else.
func (u *uplink) refused(c Client) {
	asked := u.region.of.regionOfHost(u.askedHost)
	if asked == nil || asked == u.region {
		return
	}
	r := u.region.out
	r.mu.Lock()
	now := r.now()
	if !u.region.of.isSticky(now, asked, c.Addr.Addr()) {
		u.region.of.stick(now, asked, c.Addr.Addr())
		r.tellSticky(now, u.region, asked)
	}
	r.mu.Unlock()
	r.say()
}

// stickyClient is a client that must get one region.
type stickyClient struct {
	client netip.Prefix
	region *region
}

func stickyKey(asked *region, client netip.Addr) stickyClient {
	return stickyClient{netpolicy.Client(client), asked} // of an invalid address the zero prefix, which isSticky never finds
}

func (s *callService) isSticky(now time.Time, asked *region, client netip.Addr) bool {
	until, ok := s.sticky[stickyKey(asked, client)]
	return ok && now.Before(until)
}

func (s *callService) stick(now time.Time, asked *region, client netip.Addr) {
	if !client.IsValid() {
		return
	}
	for key, until := range s.sticky {
		if len(s.sticky) < maxSticky {
			break
		}
		// What has expired goes; when nothing has, any goes: a map's order is no order.
		if !now.Before(until) || len(s.sticky) == maxSticky {
			delete(s.sticky, key)
		}
	}
	s.sticky[stickyKey(asked, client)] = now.Add(stickyFor)
}
