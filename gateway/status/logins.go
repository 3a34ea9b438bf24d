package status

import (
	"crypto/rand"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

const (
	// freeTries wrong passwords cost nothing; from then on an address waits, 30 s at first, doubling to 15 minutes.
	freeTries   = 5
	firstLock   = 30 * time.Second
	longestLock = 15 * time.Minute
	// globalTries wrong passwords of all addresses together may come at once, then one a second: many addresses guess no faster.
	globalTries = 20
	// A session ends after this long without a request, and after a working day in any case.
	sessionIdle = time.Hour
	sessionLife = 12 * time.Hour
	// Bounds: what strangers can make us remember.
	maxLocks    = 4096
	maxSessions = 1000
	// hashesAtOnce bounds memory and processor time that logins take (64 MiB each).
	hashesAtOnce = 2
)

// loginResult says how a login went.
type loginResult int

const (
	loginOK loginResult = iota
	loginWrong
	loginLocked
	loginBusy
)

// session is one logged-in browser.
type session struct {
	user   configs.AdminUser
	form   string // the token of its forms
	opened time.Time
	used   time.Time
}

// lock counts the wrong passwords from one client.
type lock struct {
	wrong int
	until time.Time
	last  time.Time
}

// logins keeps the users, their sessions and who must wait. All of it is in memory: a restart logs everybody out.
type logins struct {
	dummy string // hashed when the user is unknown, so that the answer takes as long
	slots chan struct{}
	all   *rate.Limiter // of wrong passwords
	now   func() time.Time

	mu       sync.Mutex
	users    map[string]configs.AdminUser
	sessions map[string]*session
	locks    map[netip.Prefix]*lock
}

func newLogins(users []configs.AdminUser, now func() time.Time) *logins {
	l := &logins{
		users: byName(users), dummy: noPassword(), slots: make(chan struct{}, hashesAtOnce), now: now,
		all:      rate.NewLimiter(1, globalTries),
		sessions: make(map[string]*session), locks: make(map[netip.Prefix]*lock),
	}
	return l
}

func byName(users []configs.AdminUser) map[string]configs.AdminUser {
	all := make(map[string]configs.AdminUser, len(users))
	for _, u := range users {
		all[u.Name] = u
	}
	return all
}

// reconfigure takes the users of another configuration.
func (l *logins) reconfigure(users []configs.AdminUser) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users = byName(users)
	for token, s := range l.sessions {
		user, known := l.users[s.user.Name]
		if !known || user.PasswordHash != s.user.PasswordHash {
			delete(l.sessions, token)
		}
		s.user = user
	}
}

func (l *logins) named(name string) (configs.AdminUser, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	user, known := l.users[name]
	return user, known
}

// login checks a password and opens a session. token is what the browser keeps. wait is how long a locked client must.
func (l *logins) login(client netip.Addr, name, password string) (token string, wait time.Duration, result loginResult) {
	key := netpolicy.Client(client)
	if wait := l.locked(key); wait > 0 {
		return "", wait, loginLocked
	}
	if l.all.TokensAt(l.now()) < 1 {
		return "", time.Second, loginBusy
	}
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	default:
		return "", time.Second, loginBusy
	}
	user, known := l.named(name)
	hash := user.PasswordHash
	if !known {
		hash = l.dummy
	}
	if !VerifyPassword(hash, password) || !known {
		return "", l.wrong(key), loginWrong
	}
	return l.open(key, user), 0, loginOK
}

// locked tells how long the client must still wait; zero: it may try.
func (l *logins) locked(key netip.Prefix) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.locks[key]; k != nil {
		return k.until.Sub(l.now())
	}
	return 0
}

// wrong counts one wrong password and returns how long the client has to wait now.
func (l *logins) wrong(key netip.Prefix) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.all.AllowN(now, 1)
	k := l.locks[key]
	if k == nil {
		l.makeRoom(now)
		k = &lock{}
		l.locks[key] = k
	}
	if now.Sub(k.last) > 2*longestLock {
		k.wrong = 0
	}
	k.wrong++
	k.last = now
	if k.wrong < freeTries {
		return 0
	}
	wait := min(firstLock<<min(k.wrong-freeTries, 10), longestLock)
	k.until = now.Add(wait)
	return wait
}

// makeRoom forgets locks that have ended, and the oldest when there are too many all the same.
func (l *logins) makeRoom(now time.Time) {
	if len(l.locks) < maxLocks {
		return
	}
	var oldest netip.Prefix
	for client, k := range l.locks {
		if now.Sub(k.last) > 2*longestLock {
			delete(l.locks, client)
		} else if o := l.locks[oldest]; o == nil || k.last.Before(o.last) {
			oldest = client
		}
	}
	if len(l.locks) >= maxLocks {
		delete(l.locks, oldest)
	}
}

func (l *logins) open(key netip.Prefix, user configs.AdminUser) string {
	token := rand.Text() // 130 bits
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.locks, key)
	for t, s := range l.sessions {
		if s.over(now) || len(l.sessions) >= maxSessions {
			delete(l.sessions, t)
		}
	}
	l.sessions[token] = &session{user: user, form: rand.Text(), opened: now, used: now}
	return token
}

func (s *session) over(now time.Time) bool {
	return now.Sub(s.used) > sessionIdle || now.Sub(s.opened) > sessionLife
}

// find returns the user of a live session and keeps it alive: an open page is a watched one.
func (l *logins) find(token string) (configs.AdminUser, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sessions[token]
	if s == nil {
		return configs.AdminUser{}, false
	}
	now := l.now()
	if s.over(now) {
		delete(l.sessions, token)
		return configs.AdminUser{}, false
	}
	s.used = now
	return s.user, true
}

// formToken is the token that a session's forms carry; "": there is no such session.
func (l *logins) formToken(token string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sessions[token]; s != nil && !s.over(l.now()) {
		return s.form
	}
	return ""
}

func (l *logins) close(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, token)
}
