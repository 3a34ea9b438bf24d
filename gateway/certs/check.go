package certs

import (
	"time"

	"hafen/configs"
)

// Check opens everything that a Store of the configuration would open, and says in one sentence what is wrong with it. It touches no
// network and makes nothing.
func Check(c *configs.Config, now time.Time) error {
	switch c.TLS.Source {
	case "files":
		_, err := loadFiles(c.TLS.Files, certificateNames(Options{Config: c}), now)
		return err
	case "acme":
		o := c.TLS.ACME
		if _, err := acmeRoots(o.CAFile); err != nil {
			return err
		}
		if _, err := externalAccount(o); err != nil {
			return err
		}
		_, err := newDNS01(o.DNS, nil)
		return err
	}
	return nil
}
