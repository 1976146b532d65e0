"""The capitals of the 193 members of the United Nations, its two observer states, and a few more."""

from __future__ import annotations

# Country (with other names after a slash) | capital (with other names after a slash).
_TABLE = """
Afghanistan|Kabul
Albania|Tirana
Algeria|Algiers
Andorra|Andorra la Vella
Angola|Luanda
Antigua and Barbuda|Saint John's/St. John's
Argentina|Buenos Aires
Armenia|Yerevan
Australia|Canberra
Austria|Vienna
Azerbaijan|Baku
Bahamas/The Bahamas|Nassau
Bahrain|Manama
Bangladesh|Dhaka/Dacca
Barbados|Bridgetown
Belarus|Minsk
Belgium|Brussels
Belize|Belmopan
Benin|Porto-Novo
Bhutan|Thimphu
Bolivia|Sucre
Bosnia and Herzegovina/Bosnia|Sarajevo
Botswana|Gaborone
Brazil/Brasil|Brasília/Brasilia
Brunei/Brunei Darussalam|Bandar Seri Begawan
Bulgaria|Sofia
Burkina Faso|Ouagadougou
Burundi|Gitega
Cabo Verde/Cape Verde|Praia
Cambodia|Phnom Penh
Cameroon|Yaoundé/Yaounde
Canada|Ottawa
Central African Republic|Bangui
Chad|N'Djamena/Ndjamena
Chile|Santiago/Santiago de Chile
China/People's Republic of China/PRC|Beijing/Peking
Colombia|Bogotá/Bogota
Comoros|Moroni
Democratic Republic of the Congo/DR Congo/DRC/Congo-Kinshasa|Kinshasa
Republic of the Congo/Congo/Congo-Brazzaville|Brazzaville
Costa Rica|San José/San Jose
Croatia|Zagreb
Cuba|Havana
Cyprus|Nicosia
Czechia/Czech Republic|Prague
Denmark|Copenhagen
Djibouti|Djibouti/Djibouti City
Dominica|Roseau
Dominican Republic|Santo Domingo
Ecuador|Quito
Egypt|Cairo
El Salvador|San Salvador
Equatorial Guinea|Malabo
Eritrea|Asmara
Estonia|Tallinn
Eswatini/Swaziland|Mbabane
Ethiopia|Addis Ababa
Fiji|Suva
Finland|Helsinki
France|Paris
Gabon|Libreville
Gambia/The Gambia|Banjul
Georgia|Tbilisi
Germany|Berlin
Ghana|Accra
Greece|Athens
Grenada|Saint George's/St. George's
Guatemala|Guatemala City
Guinea|Conakry
Guinea-Bissau|Bissau
Guyana|Georgetown
Haiti|Port-au-Prince
Honduras|Tegucigalpa
Hungary|Budapest
Iceland|Reykjavik/Reykjavík
India|New Delhi
Indonesia|Jakarta
Iran|Tehran/Teheran
Iraq|Baghdad
Ireland/Republic of Ireland|Dublin
Israel|Jerusalem
Italy|Rome
Ivory Coast/Côte d'Ivoire/Cote d'Ivoire|Yamoussoukro
Jamaica|Kingston
Japan|Tokyo
Jordan|Amman
Kazakhstan|Astana/Nur-Sultan
Kenya|Nairobi
Kiribati|South Tarawa/Tarawa
North Korea/DPRK|Pyongyang
South Korea/Republic of Korea/Korea|Seoul
Kosovo|Pristina/Prishtina
Kuwait|Kuwait City
Kyrgyzstan|Bishkek
Laos|Vientiane
Latvia|Riga
Lebanon|Beirut
Lesotho|Maseru
Liberia|Monrovia
Libya|Tripoli
Liechtenstein|Vaduz
Lithuania|Vilnius
Luxembourg|Luxembourg/Luxembourg City
Madagascar|Antananarivo
Malawi|Lilongwe
Malaysia|Kuala Lumpur
Maldives|Malé/Male
Mali|Bamako
Malta|Valletta
Marshall Islands|Majuro
Mauritania|Nouakchott
Mauritius|Port Louis
Mexico|Mexico City
Micronesia/Federated States of Micronesia|Palikir
Moldova|Chișinău/Chisinau
Monaco|Monaco
Mongolia|Ulaanbaatar/Ulan Bator
Montenegro|Podgorica
Morocco|Rabat
Mozambique|Maputo
Myanmar/Burma|Naypyidaw
Namibia|Windhoek
Nauru|Yaren
Nepal|Kathmandu
Netherlands/Holland|Amsterdam
New Zealand|Wellington
Nicaragua|Managua
Niger|Niamey
Nigeria|Abuja
North Macedonia/Macedonia|Skopje
Norway|Oslo
Oman|Muscat
Pakistan|Islamabad
Palau|Ngerulmud
Palestine|Ramallah
Panama|Panama City
Papua New Guinea|Port Moresby
Paraguay|Asunción/Asuncion
Peru|Lima
Philippines|Manila
Poland|Warsaw
Portugal|Lisbon
Qatar|Doha
Romania|Bucharest
Russia/Russian Federation|Moscow
Rwanda|Kigali
Saint Kitts and Nevis/St. Kitts and Nevis|Basseterre
Saint Lucia/St. Lucia|Castries
Saint Vincent and the Grenadines/St. Vincent and the Grenadines/St. Vincent|Kingstown
Samoa|Apia
San Marino|San Marino/City of San Marino
São Tomé and Príncipe/Sao Tome and Principe|São Tomé/Sao Tome
Saudi Arabia|Riyadh
Senegal|Dakar
Serbia|Belgrade
Seychelles|Victoria
Sierra Leone|Freetown
Singapore|Singapore
Slovakia|Bratislava
Slovenia|Ljubljana
Solomon Islands|Honiara
Somalia|Mogadishu
South Africa|Pretoria
South Sudan|Juba
Spain|Madrid
Sri Lanka|Sri Jayawardenepura Kotte
Sudan|Khartoum
Suriname|Paramaribo
Sweden|Stockholm
Switzerland|Bern/Berne
Syria|Damascus
Taiwan|Taipei
Tajikistan|Dushanbe
Tanzania|Dodoma
Thailand|Bangkok
Timor-Leste/East Timor|Dili
Togo|Lomé/Lome
Tonga|Nukuʻalofa/Nuku'alofa/Nukualofa
Trinidad and Tobago/Trinidad|Port of Spain
Tunisia|Tunis
Turkey/Türkiye/Turkiye|Ankara
Turkmenistan|Ashgabat
Tuvalu|Funafuti
Uganda|Kampala
Ukraine|Kyiv/Kiev
United Arab Emirates/UAE|Abu Dhabi
United Kingdom/UK/Great Britain/Britain|London
United States/United States of America/USA/US/America|Washington, D.C./Washington/Washington DC
Uruguay|Montevideo
Uzbekistan|Tashkent
Vanuatu|Port Vila
Vatican City/Vatican/Holy See|Vatican City
Venezuela|Caracas
Vietnam/Viet Nam|Hanoi
Yemen|Sanaa/Sana'a
Zambia|Lusaka
Zimbabwe|Harare
England|London
Scotland|Edinburgh
Wales|Cardiff
Northern Ireland|Belfast
"""

# What a single name would hide. Each sentence is the whole answer for its country.
NOTES = {
    "Benin": "The capital of Benin is Porto-Novo; the seat of government is Cotonou.",
    "Bolivia": (
        "The constitutional capital of Bolivia is Sucre, where its highest court sits; "
        "the seat of government is La Paz."
    ),
    "Burundi": "The political capital of Burundi is Gitega; Bujumbura remains its economic capital.",
    "Chile": "The capital of Chile is Santiago; its congress meets in Valparaíso.",
    "Equatorial Guinea": (
        "Malabo has long been the capital of Equatorial Guinea; the government has been moving it to "
        "Ciudad de la Paz on the mainland."
    ),
    "Eswatini": (
        "Eswatini has two capitals: Mbabane is the administrative one, Lobamba the royal and legislative one."
    ),
    "Indonesia": "The capital of Indonesia is Jakarta; a new capital, Nusantara, is being built on Borneo.",
    "Israel": (
        "Israel names Jerusalem as its capital and its government sits there; "
        "most other countries keep their embassies in Tel Aviv."
    ),
    "Ivory Coast": (
        "The capital of Ivory Coast is Yamoussoukro; Abidjan is its largest city and where most of the "
        "government works."
    ),
    "Malaysia": "The capital of Malaysia is Kuala Lumpur; the federal government sits in Putrajaya.",
    "Montenegro": "The capital of Montenegro is Podgorica; Cetinje is its old royal capital.",
    "Nauru": "Nauru has no official capital; its government sits in the district of Yaren.",
    "Netherlands": "The capital of the Netherlands is Amsterdam; the government sits in The Hague.",
    "Palestine": ("Palestine claims East Jerusalem as its capital; its administration works from Ramallah."),
    "South Africa": (
        "South Africa has three capitals: Pretoria (executive), Cape Town (legislative) and "
        "Bloemfontein (judicial)."
    ),
    "South Korea": "The capital of South Korea is Seoul; many of its ministries sit in Sejong.",
    "Sri Lanka": (
        "The legislative capital of Sri Lanka is Sri Jayawardenepura Kotte; Colombo is its commercial and "
        "executive centre."
    ),
    "Switzerland": "Switzerland has no capital in law; Bern is the federal city, where the government sits.",
    "Tanzania": "The capital of Tanzania is Dodoma; Dar es Salaam is its largest city.",
    "Yemen": (
        "The constitutional capital of Yemen is Sanaa; the government that most states "
        "recognise sits in Aden."
    ),
}

# Second capitals and seats of government that somebody may ask about the other way round.
MORE_CAPITALS = {
    "La Paz": "Bolivia",
    "Lobamba": "Eswatini",
    "The Hague": "Netherlands",
    "Cape Town": "South Africa",
    "Bloemfontein": "South Africa",
    "Colombo": "Sri Lanka",
    "Putrajaya": "Malaysia",
    "Ciudad de la Paz": "Equatorial Guinea",
    "Cotonou": "Benin",
    "Aden": "Yemen",
    "Nusantara": "Indonesia",
    "Abidjan": "Ivory Coast",
    "East Jerusalem": "Palestine",
}

WITH_ARTICLE = frozenset(
    {
        "Bahamas",
        "Central African Republic",
        "Comoros",
        "Democratic Republic of the Congo",
        "Dominican Republic",
        "Gambia",
        "Maldives",
        "Marshall Islands",
        "Netherlands",
        "Philippines",
        "Republic of the Congo",
        "Seychelles",
        "Solomon Islands",
        "United Arab Emirates",
        "United Kingdom",
        "United States",
    }
)

# Country, its other names, capital, its other names.
COUNTRIES: tuple[tuple[str, tuple[str, ...], str, tuple[str, ...]], ...] = tuple(
    (country, tuple(aliases), capital, tuple(spellings))
    for country, aliases, capital, spellings in (
        (names[0], names[1:], capitals[0], capitals[1:])
        for names, capitals in (
            (left.split("/"), right.split("/"))
            for left, right in (line.split("|") for line in _TABLE.strip().splitlines())
        )
    )
)
