// HTTP calls with Go's net/http. See README.md.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

func call(method, url, host string) (version string, status int, answer, text string) {
	var body io.Reader
	if method == "POST" {
		body = strings.NewReader(strings.Repeat("x", 300000))
	}
	request, err := http.NewRequest(method, url, body)
	if err != nil {
		return "", 0, "", err.Error()
	}
	if host != "-" {
		request.Host = host
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", 0, "", err.Error()
	}
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	if err != nil {
		return "", 0, "", err.Error()
	}
	return response.Proto, response.StatusCode, response.Header.Get("x-answer"), string(all)
}

func main() {
	for _, argument := range os.Args[1:] {
		words := strings.Split(argument, " ")
		start := time.Now()
		version, status, answer, text := call(words[2], words[3], words[4])
		if len(text) > 600 {
			text = text[:600]
		}
		line, _ := json.Marshal(map[string]any{
			"name": words[0], "version": version, "status": status, "answer": answer,
			"ms": time.Since(start).Milliseconds(), "text": text,
		})
		fmt.Println(string(line))
	}
}
