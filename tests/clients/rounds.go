// As rounds.py, by Go. CLIENT is not used: GODEBUG selects the resolver.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// The first address of a name only, so that no further address hides a denial.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	found, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, net.JoinHostPort(found[0], port))
}

func get(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != 200 {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}

func main() {
	rounds, _ := strconv.Atoi(os.Args[2])
	pem, err := os.ReadFile(os.Args[3])
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{
		DialContext: dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
	}}
	urls, failed := os.Args[4:], []string{}
	for turn := 0; turn < rounds; turn++ {
		if err := get(client, urls[turn%len(urls)]); err != nil {
			failed = append(failed, err.Error())
		}
	}
	line, _ := json.Marshal(map[string]any{
		"rounds": rounds, "failures": len(failed), "failed": failed[:min(5, len(failed))],
	})
	fmt.Println(string(line))
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
