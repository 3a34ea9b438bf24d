package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

const (
	// cloudCredentialLife is how long a credential that we mint for a region is good: as long as an allocation may live.
	cloudCredentialLife = maxAllocationAge + time.Hour
	// iceServersLife is how long an answer of turn_credentials.url is good that does not say.
	iceServersLife = 5 * time.Minute
	// iceServersMargin is how long before its end a credential is fetched anew: an Allocate is still to come.
	iceServersMargin  = time.Minute
	iceServersTimeout = 5 * time.Second
	maxICEServers     = 64 << 10
)

// cloudAccount is how the gateway proves itself to the regions of one service (turn_credentials): in mode terminate, and for probes
// with real allocations.
type cloudAccount struct {
	fixed *fixedAccount
	url   string
	http  *http.Client
	now   func() time.Time

	mu                 sync.Mutex
	username, password string
	until              time.Time
}

// newCloudAccount is nil where the service gave nothing.
func newCloudAccount(c *configs.Service, d *netpolicy.Dialer, now func() time.Time) (*cloudAccount, error) {
	fixed, err := newFixedAccount(c.TURNCredentials)
	if err != nil {
		return nil, err
	}
	a := &cloudAccount{fixed: fixed, url: c.TURNCredentials.URL, now: now}
	switch {
	case fixed != nil:
		return a, nil
	case a.url == "":
		return nil, nil
	}
	roots, err := rootsWith(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	a.http = iceServersClient(d, netpolicy.Scope{Private: c.PrivateNetworks}, roots)
	return a, nil
}

// same reports whether two accounts are one, either of which may be nil: as far as the configuration says, whatever was fetched since.
func (a *cloudAccount) same(b *cloudAccount) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.url == b.url && reflect.DeepEqual(a.fixed, b.fixed)
}

// iceServersClient asks one host that the configuration names, and follows it nowhere else.
func iceServersClient(d *netpolicy.Dialer, scope netpolicy.Scope, roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout:       iceServersTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return d.DialVia(ctx, network, addr, scope)
			},
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true,
		},
	}
}

// get is a credential that is good for an Allocate now.
func (a *cloudAccount) get(ctx context.Context) (username, password string, err error) {
	switch {
	case a.fixed != nil && a.fixed.mint != nil:
		username, password = a.fixed.mint.mint("hafen", a.now().Add(cloudCredentialLife))
		return username, password, nil
	case a.fixed != nil:
		return a.fixed.username, a.fixed.password, nil
	}
	// Whoever comes while one asks waits for that answer instead of asking again.
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if now.Before(a.until.Add(-iceServersMargin)) {
		return a.username, a.password, nil
	}
	got, err := a.fetch(ctx)
	if err != nil {
		if now.Before(a.until) {
			return a.username, a.password, nil // the old one is good for a moment yet
		}
		return "", "", fmt.Errorf("turn_credentials.url: %w", err)
	}
	a.username, a.password, a.until = got.username, got.password, now.Add(got.life(now))
	return a.username, a.password, nil
}

// iceCredential is what an ICE endpoint gave.
type iceCredential struct {
	username, password string
	ttl                time.Duration // 0: it did not say
}

// life is how long the credential is good: as the answer says, or as a time-limited user name does.
func (c iceCredential) life(now time.Time) time.Duration {
	if c.ttl > 0 {
		return c.ttl
	}
	digits, _, _ := strings.Cut(c.username, ":")
	if seconds, err := strconv.ParseInt(digits, 10, 64); err == nil {
		if left := time.Unix(seconds, 0).Sub(now); left > 0 && left < maxCredentialLife {
			return left
		}
	}
	return iceServersLife
}

func (a *cloudAccount) fetch(ctx context.Context) (iceCredential, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url, nil)
	if err != nil {
		return iceCredential{}, err
	}
	response, err := a.http.Do(request)
	if err != nil {
		return iceCredential{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return iceCredential{}, fmt.Errorf("it answers %s", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxICEServers))
	if err != nil {
		return iceCredential{}, err
	}
	return readICEServers(body)
}

var errNoICECredential = errors.New("its answer has no server with username and credential")

// readICEServers takes the first credential out of an answer: {"iceServers": […]} or a bare list, as browsers get it, or
// {"username", "password", "ttl", "uris"} of the TURN REST API.
func readICEServers(body []byte) (iceCredential, error) {
	type server struct {
		Username   string `json:"username"`
		Credential string `json:"credential"`
	}
	var answer struct {
		Servers  []server `json:"iceServers"`
		Username string   `json:"username"`
		Password string   `json:"password"`
		TTL      float64  `json:"ttl"`
	}
	err := json.Unmarshal(body, &answer)
	if err != nil {
		err = json.Unmarshal(body, &answer.Servers)
	}
	if err != nil {
		return iceCredential{}, errors.New("its answer is no JSON that ICE servers come in") // without the bytes: they may be secret
	}
	ttl := time.Duration(min(max(answer.TTL, 0), maxCredentialLife.Seconds()) * float64(time.Second))
	for _, s := range append(answer.Servers, server{answer.Username, answer.Password}) {
		if s.Username != "" && s.Credential != "" {
			return iceCredential{s.Username, s.Credential, ttl}, nil
		}
	}
	return iceCredential{}, errNoICECredential
}
