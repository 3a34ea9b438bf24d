package relay

import (
	"errors"
	"fmt"
	"time"
)

// cloudTestLife is how long the credentials of a test at the cloud's relays are good.
const cloudTestLife = 10 * time.Minute

var errNoSecret = errors.New("turn_credentials has no secret_file to mint credentials from")

// CloudCredentials mints short-lived credentials of the first service's, for a test whose media passes through the cloud's relays. Only
// a shared secret can mint them: a fixed user name and password are never given away.
func (s *Server) CloudCredentials(user string, now time.Time) (username, password string, err error) {
	if len(s.config().Services) == 0 {
		return "", "", errNoSecret
	}
	account, err := newFixedAccount(s.config().Services[0].TURNCredentials)
	switch {
	case err != nil:
		return "", "", err
	case account == nil || account.mint == nil:
		return "", "", errNoSecret
	case !runName(user):
		return "", "", fmt.Errorf("%w: %.80q", errUsername, user)
	}
	username, password = account.mint.mint(user, now.Add(cloudTestLife))
	return username, password, nil
}
