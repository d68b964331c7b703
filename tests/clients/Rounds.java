// As rounds.py, by Java's InetAddress and sockets.

import java.io.FileInputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.List;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Rounds {
    private static SSLContext tls;

    private static void get(URI url) throws java.io.IOException {
        try (Socket socket = new Socket()) {
            socket.setSoTimeout(10_000);
            socket.connect(new InetSocketAddress(InetAddress.getByName(url.getHost()), url.getPort()), 10_000);
            Socket stream = url.getScheme().equals("https")
                ? tls.getSocketFactory().createSocket(socket, url.getHost(), url.getPort(), true)
                : socket;
            String request = "GET " + url.getPath() + " HTTP/1.1\r\nHost: " + url.getAuthority()
                + "\r\nConnection: close\r\n\r\n";
            stream.getOutputStream().write(request.getBytes(StandardCharsets.US_ASCII));
            String status = new String(stream.getInputStream().readNBytes(12), StandardCharsets.US_ASCII);
            if (!status.equals("HTTP/1.1 200")) {
                throw new java.io.IOException("answer: " + status);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        // Otherwise an address is kept for 30 s.
        java.security.Security.setProperty("networkaddress.cache.ttl", "0");
        int rounds = Integer.parseInt(arguments[1]);
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (FileInputStream file = new FileInputStream(arguments[2])) {
            trusted.setCertificateEntry("lab", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        tls = SSLContext.getInstance("TLS");
        tls.init(null, trust.getTrustManagers(), null);
        List<String> failed = new ArrayList<>();
        for (int turn = 0; turn < rounds; turn++) {
            String url = arguments[3 + turn % (arguments.length - 3)];
            try {
                get(URI.create(url));
            } catch (java.io.IOException error) {
                failed.add(url + ": " + error);
            }
        }
        StringBuilder some = new StringBuilder();
        for (String text : failed.subList(0, Math.min(5, failed.size()))) {
            some.append(some.length() == 0 ? "" : ",").append('"')
                .append(text.replaceAll("[\"\\\\\\p{Cntrl}]", "'")).append('"');
        }
        System.out.println("{\"rounds\":" + rounds + ",\"failures\":" + failed.size() + ",\"failed\":[" + some + "]}");
    }
}
